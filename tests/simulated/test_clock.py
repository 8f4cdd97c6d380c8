"""Virtual time: it stands still, runs what is due in order, and tasks clean up when they are cancelled."""

from __future__ import annotations

import pytest

from labs.simulated.world.clock import SECOND_NS, Steps, Task, VirtualClock


def test_events_run_in_the_order_of_their_time() -> None:
    clock, seen = VirtualClock(), []
    clock.after(2.0, lambda: seen.append("late"))
    clock.after(1.0, lambda: seen.append("early"))

    clock.sleep(1.5)
    assert seen == ["early"]
    clock.sleep(1.0)
    assert seen == ["early", "late"]


def test_waiting_stops_at_the_event_that_ends_it() -> None:
    clock, seen = VirtualClock(), []
    start = clock.monotonic()
    clock.after(1.0, lambda: seen.append(1))

    assert clock.wait_for(lambda: bool(seen), 10.0)
    assert clock.monotonic() == start + 1.0
    assert not clock.wait_for(lambda: len(seen) > 1, 3.0)
    assert clock.monotonic() == start + 4.0


def test_a_cancelled_task_cleans_up_and_ends_with_the_error() -> None:
    clock, seen = VirtualClock(), []

    def steps() -> Steps[int]:
        try:
            yield 5.0
        finally:
            seen.append("cleaned up")
        return 1

    task = Task(clock, steps())
    clock.sleep(1.0)
    task.cancel(ValueError("enough"))

    assert task.done
    assert isinstance(task.error, ValueError)
    assert seen == ["cleaned up"]
    clock.sleep(10.0)
    assert task.result is None


def test_a_task_returns_its_result() -> None:
    clock = VirtualClock()

    def steps() -> Steps[int]:
        yield 1.0
        return 7

    task = Task(clock, steps())
    assert not task.done
    clock.sleep(1.0)
    assert task.result == pytest.approx(7)


def test_a_wait_comes_to_its_end_however_little_of_it_is_left() -> None:
    clock = VirtualClock()
    clock.sleep(1e-13)
    assert clock.now_ns == 1000 * SECOND_NS + 1
