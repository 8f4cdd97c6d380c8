"""Operations of this driver: steps that look at the host each time somebody asks, in no thread of their own.

What takes long is a job on the host (``-AsJob``), or the guest's own time; this process only looks. So progress, abort
and deadlines are those of the host, and whoever waits is the only one who spends time.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from conformance import driver as interface
from conformance.errors import Timeout, Unsupported
from conformance.model import Progress
from conformance.waiting import WaitTimeout, until

T = TypeVar("T")

Steps = Generator[Progress, None, T]
"""Work that says how far it is each time it has to wait for the host or the guest."""


class Polled(Generic[T]):
    """Steps under way. The first is taken by the call itself, so what can be known at once is raised there.

    Args:
        steps: The work; closed when it is given up, which is when it cleans up.
        operation: Name of the driver call.
        vm: For errors.
        abandon: A wait whose deadline passes gives the work up: the guest was asked and did not follow.
        abort: Stops it on the host; without one, `abort` raises `Unsupported`.
        at_end: Called once, however it ends.
    """

    def __init__(
        self,
        steps: Steps[T],
        *,
        operation: str,
        vm: str | None,
        abandon: bool = False,
        abort: Callable[[], None] | None = None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._steps = steps
        self._operation = operation
        self._vm = vm
        self._abandon = abandon
        self._abort = abort
        self._at_end = at_end
        self._lock = threading.RLock()
        self._ended = False
        self._seen = Progress(0.0, "started")
        self._error: BaseException | None = None
        self._result: T | None = None
        self._step()
        if self._error is not None:
            raise self._error

    def _step(self) -> None:
        with self._lock:
            if self._ended:
                return
            try:
                seen = next(self._steps)
            except StopIteration as end:
                self._result = end.value
                self._end(Progress(1.0, "done"))
            except Exception as error:  # noqa: BLE001 - raised by whoever waits
                self._error = error
                self._end(Progress(self._seen.fraction, "failed"))
            else:
                self._seen = Progress(max(seen.fraction, self._seen.fraction), seen.phase)

    def _end(self, seen: Progress) -> None:
        self._seen = seen
        self._ended = True
        self._at_end()

    def done(self) -> bool:
        self._step()
        return self._ended

    def progress(self) -> Progress:
        self._step()
        return self._seen

    def wait(self, deadline_s: float | None = None) -> T:
        limit = interface.DEFAULT_DEADLINE_S if deadline_s is None else deadline_s
        try:
            until(f"the end of {self._operation}", self.done, seconds=limit)
        except WaitTimeout:
            raise self._overdue(limit) from None
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # without an error it is the result

    def _overdue(self, limit: float) -> Timeout:
        seen = self._seen
        error = Timeout(
            f"no end after {limit:.1f} s: {seen.phase}",
            phase=seen.phase,
            last_state=f"{seen.fraction:.0%}",
            operation=self._operation,
            vm=self._vm,
        )
        with self._lock:
            if self._abandon and not self._ended:
                self._steps.close()
                self._error = error
                self._end(Progress(seen.fraction, "given up"))
        return error

    def abort(self) -> None:
        if self._abort is None:
            raise Unsupported(capability="abort", operation=self._operation, vm=self._vm)
        if not self.done():
            self._abort()


class UnderWay:
    """The operations that have not ended: kept, so that none ends because nobody holds it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, Polled[Any] | None] = {}
        self._numbers = itertools.count()
        self._then: Callable[[], None] | None = None

    def begin(self) -> int:
        """Count an operation that is about to begin; returns its number."""
        with self._lock:
            number = next(self._numbers)
            self._kept[number] = None
            return number

    def keep(self, number: int, operation: Polled[Any]) -> None:
        with self._lock:
            if number in self._kept:
                self._kept[number] = operation

    def end(self, number: int) -> None:
        with self._lock:
            self._kept.pop(number, None)
            then = None if self._kept else self._then
        if then is not None:
            then()

    def when_idle(self, then: Callable[[], None]) -> None:
        """Do `then` at once, or when the last operation has ended: a shell that is closed takes its jobs with it."""
        with self._lock:
            self._then = then
            idle = not self._kept
        if idle:
            then()
