"""Operations on the simulated hypervisor, and its errors in the harness's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, NoReturn, TypeVar

from conformance import driver as interface
from conformance.errors import (
    Busy,
    DriverError,
    Exists,
    HostUnreachable,
    HypervisorFailure,
    InvalidRequest,
    InvalidState,
    NotFound,
    QuotaExceeded,
    Timeout,
    Unsupported,
)
from conformance.model import Progress
from labs.simulated.world.clock import Task, VirtualClock
from labs.simulated.world.errors import HypervisorError

T = TypeVar("T")

_TYPES: dict[str, type[DriverError]] = {
    "no-domain": NotFound,
    "no-snapshot": NotFound,
    "no-volume": NotFound,
    "no-nic": NotFound,
    "busy": Busy,
    "exists": Exists,
    "bad-request": InvalidRequest,
    "bad-image": InvalidRequest,
    "no-memory": QuotaExceeded,
    "unreachable": HostUnreachable,
}


def fail(error: HypervisorError, operation: str, vm: str | None) -> NoReturn:
    """Raise the typed error for what the hypervisor said; an unknown code is a `HypervisorFailure`."""
    if error.code == "guest-refused" and operation in ("stop", "reboot", "detach_nic", "detach_volume"):
        raise Timeout(
            error.message, phase="waiting for the guest", last_state="running", operation=operation, vm=vm
        ) from error
    if error.code == "bad-state":
        raise InvalidState(error.message, current="unknown", operation=operation, vm=vm) from error
    kind = _TYPES.get(error.code, HypervisorFailure)
    raise kind(error.message, operation=operation, vm=vm, code=error.code) from error


@contextmanager
def translated(operation: str, vm: str | None = None) -> Iterator[None]:
    """Turn the hypervisor's errors into the harness's."""
    try:
        yield
    except HypervisorError as error:
        fail(error, operation, vm)


class Reported:
    """What a task said last about how far it is."""

    def __init__(self) -> None:
        self.seen = Progress(0.0, "started")

    def __call__(self, fraction: float, phase: str) -> None:
        self.seen = Progress(max(fraction, self.seen.fraction), phase)


class WorldOperation(Generic[T]):
    """A task of the hypervisor as an `Operation`. Waiting for it lets the world's time pass.

    Args:
        abandon: A wait whose deadline passes ends the task, too: the guest was asked and did not follow.
        abortable: Whether `abort` is offered.
    """

    def __init__(
        self,
        clock: VirtualClock,
        task: Task[T],
        *,
        operation: str,
        vm: str | None,
        abandon: bool = False,
        abortable: bool = False,
        reported: Reported | None = None,
    ) -> None:
        self._clock = clock
        self._task = task
        self._operation = operation
        self._vm = vm
        self._abandon = abandon
        self._abortable = abortable
        self._reported = reported or Reported()

    def wait(self, deadline_s: float | None = None) -> T:
        limit = interface.DEFAULT_DEADLINE_S if deadline_s is None else deadline_s
        if not self._clock.wait_for(self.done, limit):
            if self._abandon:
                self._task.cancel(HypervisorError("guest-refused", "the deadline passed"))
            seen = self._reported.seen
            raise Timeout(
                f"no end after {limit:.1f} s",
                phase=seen.phase,
                last_state=f"{seen.fraction:.0%}",
                operation=self._operation,
                vm=self._vm,
            )
        if isinstance(self._task.error, HypervisorError):
            fail(self._task.error, self._operation, self._vm)
        if self._task.error is not None:
            raise self._task.error
        return self._task.result  # type: ignore[return-value]  # a task without an error has its result

    def progress(self) -> Progress:
        if self._task.done and self._task.error is None:
            return Progress(1.0, "done")
        seen = self._reported.seen
        return Progress(seen.fraction, "failed") if self._task.done else seen

    def done(self) -> bool:
        return self._task.done

    def abort(self) -> None:
        if not self._abortable:
            raise Unsupported(capability="abort", operation=self._operation, vm=self._vm)
        self._task.cancel(HypervisorError("aborted", f"{self._operation} was aborted"))
