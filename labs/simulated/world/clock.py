"""The world's clock: virtual time, the events that are due in it, and tasks that take some of it."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")

Steps = Generator[float, None, T]
"""Work that yields the seconds of virtual time it needs before it can go on."""

SECOND_NS = 1_000_000_000


class Event:
    """Something due at a point in time."""

    __slots__ = ("call", "cancelled")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False


class VirtualClock:
    """A clock that stands still until somebody waits. Waiting runs whatever falls due meanwhile, in order.

    Safe for calls from several threads; one of them at a time moves the world.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.now_ns = 1000 * SECOND_NS
        self._due: list[tuple[int, int, Event]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now_ns / SECOND_NS

    def sleep(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass, and at least a nanosecond if not none; takes no real time."""
        with self.lock:
            # rounded up: whoever sleeps until what is left is nothing would else never come to the end of it
            until_ns = self.now_ns + max(0, math.ceil(seconds * SECOND_NS))
            while self._due and self._due[0][0] <= until_ns:
                self._run_next()
            self.now_ns = max(self.now_ns, until_ns)

    def after(self, seconds: float, call: Callable[[], None]) -> Event:
        """Call `call` once `seconds` have passed."""
        with self.lock:
            event = Event(call)
            due_ns = self.now_ns + max(0, round(seconds * SECOND_NS))
            heapq.heappush(self._due, (due_ns, next(self._order), event))
            return event

    def wait_for(self, done: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until `done()` or until `seconds` are over; returns whether it is done."""
        with self.lock:
            until_ns = self.now_ns + max(0, round(seconds * SECOND_NS))
            while not done():
                if not self._due or self._due[0][0] > until_ns:
                    self.now_ns = max(self.now_ns, until_ns)
                    return done()
                self._run_next()
            return True

    def _run_next(self) -> None:
        due_ns, _, event = heapq.heappop(self._due)
        self.now_ns = max(self.now_ns, due_ns)
        if not event.cancelled:
            event.call()


class Task(Generic[T]):
    """Steps under way. The first step runs at once, the others as time passes."""

    def __init__(self, clock: VirtualClock, steps: Steps[T], at_end: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._steps = steps
        self._at_end = at_end
        self._event: Event | None = None
        self.done = False
        self.error: Exception | None = None
        self.result: T | None = None
        self._step()

    def cancel(self, error: Exception) -> None:
        """Raise `error` inside the steps, which clean up and end."""
        with self._clock.lock:
            if self.done:
                return
            if self._event is not None:
                self._event.cancelled = True
            self._step(error)

    def _step(self, error: Exception | None = None) -> None:
        with self._clock.lock:
            try:
                delay = next(self._steps) if error is None else self._steps.throw(error)
            except StopIteration as end:
                self.result = end.value
                self._finish()
            except Exception as failure:  # noqa: BLE001 - handed to whoever waits for the task
                self.error = failure
                self._finish()
            else:
                self._event = self._clock.after(delay, self._step)

    def _finish(self) -> None:
        self.done = True
        self._at_end()
