"""The one way to wait: it returns what was seen, gives up in time, and says what it saw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.waiting import Deadline, WaitTimeout, holds_for, now, until, use_clock


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    made = Clock()
    use_clock(made)
    yield made
    use_clock(None)


def test_what_holds_at_once_costs_no_time(clock: Clock) -> None:
    assert until("an answer", lambda: 42, seconds=5) == 42
    assert clock.slept == []


def test_it_looks_until_the_condition_holds() -> None:
    seen = until("three seconds to pass", now, lambda time: time >= 103, seconds=5)
    assert 103 <= seen < 103.3


def test_the_end_of_a_wait_is_seen_a_tenth_of_it_late_at_most(clock: Clock) -> None:
    for wanted in (0.1, 0.5, 1.5, 30.0):
        clock.time, clock.slept = 100.0, []
        late = until("it", now, lambda time, wanted=wanted: time >= 100 + wanted, seconds=60) - 100 - wanted  # type: ignore[misc]
        assert late <= max(0.02, wanted / 10) + 1e-6
    assert max(clock.slept) == pytest.approx(0.2)


def test_a_look_that_takes_long_is_not_repeated_at_once(clock: Clock) -> None:
    looks = []

    def look() -> bool:
        looks.append(clock.time)
        clock.time += 0.15
        return len(looks) == 3

    until("the third look", look, seconds=60)
    assert clock.slept == pytest.approx([0.15, 0.15])


def test_it_gives_up_at_the_deadline_and_tells_the_history(clock: Clock) -> None:
    with pytest.raises(WaitTimeout) as timeout:
        until("the state to be on", lambda: "off" if clock.time < 101 else "half", lambda s: s == "on", seconds=2)
    assert clock.time == pytest.approx(102)
    assert timeout.value.what == "the state to be on"
    assert [text for _, text in timeout.value.history] == ["'off'", "'half'"]
    assert "waited 2.0 s for the state to be on" in str(timeout.value)


def test_a_long_history_keeps_the_first_sight_and_the_latest() -> None:
    with pytest.raises(WaitTimeout) as timeout:
        until("never", now, lambda _: False, seconds=30)
    history = timeout.value.history
    assert len(history) == 12
    assert history[0][0] == 0
    assert history[-1][0] == pytest.approx(30)


def test_an_ignored_exception_means_not_yet(clock: Clock) -> None:
    def probe() -> str:
        if clock.time < 101:
            raise ConnectionError("down")
        return "up"

    assert until("it to be up", probe, seconds=5, ignore=(ConnectionError,)) == "up"
    with pytest.raises(ValueError, match="mine"):
        until("it to be up", lambda: (_ for _ in ()).throw(ValueError("mine")), seconds=5, ignore=(ConnectionError,))


def test_never_ends_the_wait_at_once(clock: Clock) -> None:
    with pytest.raises(WaitTimeout, match="given up: it crashed"):
        until("it to run", lambda: "crashed", lambda s: s == "running", seconds=60, never=lambda s: f"it {s}")
    assert clock.time == 100


def test_holds_for_looks_the_whole_time(clock: Clock) -> None:
    holds_for("the state", lambda: True, seconds=1)
    assert clock.time == pytest.approx(101)
    with pytest.raises(WaitTimeout, match="the state to stay so"):
        holds_for("the state", lambda: clock.time < 101.5, seconds=1)


def test_a_deadline_has_never_less_than_nothing_left(clock: Clock) -> None:
    deadline = Deadline.after(2)
    assert deadline.left == 2
    clock.sleep(5)
    assert deadline.left == 0
