"""Operations that only look: what is known at once, deadlines, giving up, and closing after the last one."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from conformance import waiting
from conformance.errors import InvalidRequest, Timeout, Unsupported
from conformance.model import Progress
from drivers.hyperv.operations import Polled, Steps, UnderWay


class Hours:
    """A clock whose sleeps take no time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    waiting.use_clock(Hours())
    yield
    waiting.use_clock(None)


def looks(*fractions: float) -> Steps[str]:
    for fraction in fractions:
        yield Progress(fraction, "working")
    return "result"


def endless(closed: list[str]) -> Steps[None]:
    try:
        while True:
            yield Progress(0.25, "waiting for the guest")
    finally:
        closed.append("closed")


def failing(error: Exception, *, first: bool) -> Steps[None]:
    if not first:
        yield Progress(0.5, "working")
    raise error


def polled(steps: Steps[object], **more: object) -> Polled[object]:
    return Polled(steps, operation="op", vm="vm", **more)  # type: ignore[arg-type]


def test_it_ends_with_the_result_and_progress_never_goes_back() -> None:
    operation = polled(looks(0.5, 0.2, 0.9))
    seen = [operation.progress().fraction for _ in range(2)]
    assert operation.wait() == "result"
    assert [*seen, operation.progress().fraction] == [0.5, 0.9, 1.0]
    assert operation.done()


def test_what_is_known_at_once_is_raised_by_the_call() -> None:
    with pytest.raises(InvalidRequest):
        polled(failing(InvalidRequest("no"), first=True))


def test_what_comes_later_is_raised_by_every_wait() -> None:
    operation = polled(failing(InvalidRequest("no"), first=False))
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            operation.wait()
    assert operation.progress() == Progress(0.5, "failed")


def test_a_deadline_leaves_the_work_under_way() -> None:
    closed: list[str] = []
    operation = polled(endless(closed))
    with pytest.raises(Timeout) as timeout:
        operation.wait(5)
    assert (timeout.value.operation, timeout.value.vm) == ("op", "vm")
    assert timeout.value.phase == "waiting for the guest"
    assert not operation.done()
    assert closed == []


def test_a_deadline_gives_up_what_only_asks_the_guest() -> None:
    closed: list[str] = []
    operation = polled(endless(closed), abandon=True)
    with pytest.raises(Timeout):
        operation.wait(5)
    assert closed == ["closed"]
    assert operation.done()
    with pytest.raises(Timeout):
        operation.wait(5)


def test_abort_where_there_is_none() -> None:
    with pytest.raises(Unsupported):
        polled(endless([])).abort()


def test_closing_waits_for_the_last_operation() -> None:
    under_way, closed = UnderWay(), list[str]()
    first, second = under_way.begin(), under_way.begin()
    under_way.when_idle(lambda: closed.append("closed"))
    under_way.end(first)
    assert closed == []
    under_way.end(second)
    assert closed == ["closed"]


def test_an_operation_that_nobody_holds_goes_on() -> None:
    under_way, closed = UnderWay(), list[str]()
    under_way.keep(under_way.begin(), polled(endless(closed)))
    gc.collect()
    assert closed == []
