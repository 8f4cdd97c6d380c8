"""Every error of the harness, in three trees that never meet.

A `DriverError` is something a driver under test said, a `NotObserved` is something an observer waited for in vain, and
a `LabError` is something the lab or the harness did wrong. The difference decides a verdict: the first two fail a
requirement (once the lab is seen to be healthy), a `LabError` is never blamed on a driver.

    HarnessError
    ├── DriverError(operation, vm, host, code)
    │   ├── NotFound            no such VM, snapshot, volume, NIC or network
    │   ├── InvalidState        the operation is illegal in the current power state
    │   ├── Unsupported         the capability is not offered
    │   ├── Busy                another operation holds the object; try later
    │   ├── Exists              the name or id is taken
    │   ├── InvalidRequest      the request itself is wrong: bad image, size below the minimum, unknown network
    │   ├── QuotaExceeded       a quota or the host's capacity would be exceeded
    │   ├── Timeout             the deadline passed
    │   ├── HostUnreachable     the management endpoint does not answer
    │   ├── AccessDenied        credentials or permissions were refused
    │   └── HypervisorFailure   the hypervisor itself failed the operation
    ├── UntypedError            a driver raised something that is not of its tree; wrapped where the harness calls it
    ├── NotObserved
    │   ├── GuestSilent         the guest agent did not answer within its deadline
    │   └── WaitTimeout         a condition did not hold in time (conformance.waiting)
    └── LabError(hint)
        ├── LabFileError        the lab file is malformed or incomplete
        ├── MissingRequirement  a package, permission or device of this machine is missing
        ├── LabBusy             every lab of the pool is leased by others
        ├── HostDown            a lab host cannot be reached by its observers
        │   └── LoginRefused    it answers, and lets nobody in, or shows a key that is not its own
        ├── ProbeFailed         an observer could not look
        └── FaultNotFired       an injected fault had no effect, so the test would prove nothing
"""

from __future__ import annotations

from collections.abc import Iterable

INTERRUPTED = 2
"""Exit code: Ctrl-C or SIGTERM ended the run. It is pytest's number, told here to readers without pytest."""

LAB_BROKEN = 6
"""Exit code: nothing failed, but the lab or the harness did."""


class HarnessError(Exception):
    """Base of everything raised on purpose by hvconform."""


class DriverError(HarnessError):
    """A driver refused or failed an operation.

    Args:
        message: What happened, in the hypervisor's own words where it has any.
        operation: The driver call, such as ``"reboot"`` or ``"snapshots.revert"``.
        vm: Id (or name, before there is an id) of the VM concerned.
        host: Name of the lab host concerned.
        code: The hypervisor's own error code, unchanged.
        hint: What the reader can do about it, where the driver knows: for what stops a run before it began.
    """

    def __init__(
        self,
        message: str = "",
        *,
        operation: str = "",
        vm: str | None = None,
        host: str | None = None,
        code: str | int | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.vm = vm
        self.host = host
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        named = (("operation", self.operation), ("vm", self.vm), ("host", self.host), ("code", self.code))
        context = ", ".join(f"{key}={value}" for key, value in named if value not in ("", None))
        text = f"{self.message} [{context}]" if context else self.message
        return f"{text}\n  try: {self.hint}" if self.hint else text


class NotFound(DriverError):
    """The object named does not exist."""


class InvalidState(DriverError):
    """The operation is illegal in the VM's current power state, which is left as it was.

    Args:
        current: The power state found.
        allowed: The power states in which the operation is legal.
    """

    def __init__(
        self,
        message: str = "",
        *,
        current: str,
        allowed: Iterable[str] = (),
        operation: str = "",
        vm: str | None = None,
        host: str | None = None,
        code: str | int | None = None,
    ) -> None:
        self.current = current
        self.allowed = tuple(allowed)
        text = message or f"not possible while {current}; allowed: {', '.join(self.allowed) or 'nothing'}"
        super().__init__(text, operation=operation, vm=vm, host=host, code=code)


class Unsupported(DriverError):
    """The capability is not offered; nothing was changed.

    Args:
        capability: The capability that the operation needs, such as ``"snapshot.memory"``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        capability: str,
        operation: str = "",
        vm: str | None = None,
        host: str | None = None,
        code: str | int | None = None,
    ) -> None:
        self.capability = capability
        super().__init__(message or f"{capability} is not supported", operation=operation, vm=vm, host=host, code=code)


class Busy(DriverError):
    """Another operation holds the object; the same call may succeed later."""


class Exists(DriverError):
    """The name or id is already taken."""


class InvalidRequest(DriverError):
    """The request can never succeed as it was made (bad image, disk too small, unknown network)."""


class QuotaExceeded(DriverError):
    """A quota or the host's capacity would be exceeded; refused before anything changed."""


class Timeout(DriverError):
    """The deadline passed.

    Args:
        phase: What the operation was doing when time ran out.
        last_state: The last power state or progress seen.
    """

    def __init__(
        self,
        message: str = "",
        *,
        phase: str,
        last_state: str,
        operation: str = "",
        vm: str | None = None,
        host: str | None = None,
        code: str | int | None = None,
    ) -> None:
        self.phase = phase
        self.last_state = last_state
        text = message or f"deadline passed while {phase}; last state: {last_state}"
        super().__init__(text, operation=operation, vm=vm, host=host, code=code)


class HostUnreachable(DriverError):
    """The hypervisor's management endpoint does not answer. The state of its VMs is unknown, not stopped."""


class AccessDenied(DriverError):
    """Credentials or permissions were refused."""


class HypervisorFailure(DriverError):
    """The hypervisor accepted the operation and failed it."""


class UntypedError(HarnessError):
    """A driver let something else than a `DriverError` out, such as a `NotImplementedError`: the failure is its own."""


class NotObserved(HarnessError):
    """An observer waited in vain for what the requirement promises."""


class GuestSilent(NotObserved):
    """The guest agent did not answer in time."""


class LabError(HarnessError):
    """The lab or the harness failed; never the driver.

    Args:
        message: What is wrong and where.
        hint: What the reader can do about it, as a command or one sentence.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  try: {self.hint}" if self.hint else self.message


class LabFileError(LabError):
    """The lab file is malformed or incomplete."""


class MissingRequirement(LabError):
    """A package, a permission or a device is missing on this machine."""


class LabBusy(LabError):
    """Every lab of the pool is leased by others."""


class HostDown(LabError):
    """A lab host cannot be reached by its observers."""


class LoginRefused(HostDown):
    """A lab host answers and refuses the login, or shows a key that is not the one it is known by."""


class ProbeFailed(LabError):
    """An observer could not look; what it would have seen is unknown."""


class FaultNotFired(LabError):
    """An injected fault had no effect, so the test built on it would prove nothing."""
