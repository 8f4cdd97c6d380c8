"""The one way to wait: poll a condition until it holds, a deadline passes, or it can never hold any more.

This is the only module that sleeps. A timeout says what was waited for and the history of what was seen, because
"timed out" alone has never helped anybody. Time is asked of one clock, which the simulated world replaces by its own:
there a second of waiting moves the world on by a second and costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from conformance.errors import NotObserved

T = TypeVar("T")

_HISTORY = 12


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...

    def sleep(self, seconds: float) -> None: ...


_clock: Clock = time


def use_clock(clock: Clock | None) -> None:
    """Take time from `clock` from now on in this process; None goes back to the machine's own."""
    global _clock
    _clock = time if clock is None else clock


def now() -> float:
    """Monotonic seconds of the clock in use."""
    return _clock.monotonic()


class WaitTimeout(NotObserved):
    """The condition did not hold in time.

    Args:
        what: The condition, as a clause: ``"the guest to show a new boot id"``.
        seconds: How long was waited.
        history: The distinct observations, oldest first, each with the seconds since the start.
    """

    def __init__(self, what: str, seconds: float, history: list[tuple[float, str]]) -> None:
        self.what = what
        self.seconds = seconds
        self.history = history
        seen = "".join(f"\n  {at:7.2f} s  {text}" for at, text in history)
        super().__init__(f"waited {seconds:.1f} s for {what}; seen:{seen or ' nothing'}")


@dataclass(slots=True)
class Deadline:
    """A point in monotonic time, shared by the steps of one wait."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(now() + seconds)

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - now())


class Waiter(Generic[T]):
    """`until` with its bookkeeping; use the function."""

    def __init__(self, what: str, seconds: float) -> None:
        self.what = what
        self.seconds = seconds
        self.start = now()
        self.history: list[tuple[float, str]] = []

    def note(self, text: str) -> None:
        if not self.history or self.history[-1][1] != text:
            self.history.append((now() - self.start, text))
            # the first sight and the latest ones explain most timeouts
            if len(self.history) > _HISTORY:
                del self.history[1]


def until(
    what: str,
    probe: Callable[[], T],
    holds: Callable[[T], bool] = bool,
    *,
    seconds: float,
    interval: float = 0.02,
    never: Callable[[T], str | None] | None = None,
    ignore: tuple[type[Exception], ...] = (),
) -> T:
    """Poll `probe` until `holds(value)`; return that value.

    Args:
        what: The condition as a clause, for the error message.
        probe: What to look at.
        holds: Whether what was seen is it.
        seconds: The deadline.
        interval: Seconds between two looks. They grow to ten times that: with the wait, a tenth of which is lost,
            and with the time that a look takes, for it weighs on what is looked at.
        never: Says why the condition can no longer hold, which ends the wait at once; None while it still can.
        ignore: Exceptions of `probe` that mean "not yet".

    Raises:
        WaitTimeout: The deadline passed, or `never` gave a reason.
    """
    waiter: Waiter[T] = Waiter(what, seconds)
    deadline = Deadline.after(seconds)
    while True:
        looked = now()
        try:
            value = probe()
        except ignore as error:
            waiter.note(f"{type(error).__name__}: {error}")
        else:
            if holds(value):
                return value
            waiter.note(repr(value))
            if never is not None and (reason := never(value)) is not None:
                raise WaitTimeout(f"{what} (given up: {reason})", now() - waiter.start, waiter.history)
        if deadline.left <= 0:
            raise WaitTimeout(what, seconds, waiter.history)
        pause = max(interval, (now() - waiter.start) / 10, now() - looked)
        _clock.sleep(min(pause, interval * 10, deadline.left))


def holds_for(what: str, probe: Callable[[], bool], *, seconds: float, interval: float = 0.05) -> None:
    """Check that `probe` stays true for the whole time: the way to observe that something does *not* happen.

    Raises:
        WaitTimeout: `probe` was false at some point.
    """
    start = now()
    deadline = Deadline.after(seconds)
    while True:
        if not probe():
            raise WaitTimeout(f"{what} to stay so", now() - start, [(now() - start, "broken")])
        if deadline.left <= 0:
            return
        _clock.sleep(min(interval, deadline.left))
