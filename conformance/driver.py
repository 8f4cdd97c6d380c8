"""The driver interface: a mandatory core, optional facets, and operations that can be waited for and aborted.

A driver is an adapter plus whatever management stack it drives. Ids, not live objects, cross this interface, so that
another process can pick a VM up again. A driver knows neither pytest nor any observer.

What every method may raise is the tree in `conformance.errors`: an unknown id is `NotFound`, an illegal power state is
`InvalidState` and leaves the state as it was, a capability that is not declared is `Unsupported`, raised by the call
itself and before anything changed. A call that returns an `Operation` raises what it can know at once, and the rest
from `Operation.wait`.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from conformance.errors import Timeout, Unsupported
from conformance.lab.inventory import LabInventory, Target
from conformance.model import (
    Capability,
    Declared,
    DiskSpec,
    Facts,
    Finding,
    MigrateOptions,
    NicSpec,
    Progress,
    RebootMode,
    SnapshotState,
    StopMode,
    VmSpec,
    VmState,
    VolumeState,
)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LIVE = MigrateOptions()
"""Live migration over shared storage."""

DEFAULT_DEADLINE_S = 60.0
"""Used where nobody measured the lab: `Operation.wait()` without a deadline outside of a run."""


class Operation(Protocol[T_co]):
    """Something under way on the hypervisor."""

    def wait(self, deadline_s: float | None = None) -> T_co:
        """Wait for the end and return the result.

        Args:
            deadline_s: Seconds to wait; None takes the default, which a run scales by the lab's measured speed.

        Raises:
            Timeout: The deadline passed; the operation may still be under way, and can be aborted.
            DriverError: What the operation ended with.
        """
        ...

    def progress(self) -> Progress:
        """How far it is; `fraction` never goes back."""
        ...

    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        ...

    def abort(self) -> None:
        """Ask it to stop; `wait` then raises. Raises `Unsupported` where the hypervisor cannot."""
        ...


class Completed(Generic[T]):
    """An operation that was over before the call returned."""

    def __init__(self, value: T) -> None:
        self._value = value

    def wait(self, deadline_s: float | None = None) -> T:  # noqa: ARG002 - there is nothing left to wait for
        return self._value

    def progress(self) -> Progress:
        return Progress(1.0, "done")

    def done(self) -> bool:
        return True

    def abort(self) -> None:
        return None


class Running(Generic[T]):
    """An operation that a thread of the driver carries out, for hypervisor calls that block.

    Args:
        work: Does it and returns the result; its exception is what `wait` raises.
        operation: Name of the driver call, for errors and thread names.
        vm: Id of the VM, for errors.
        progress: Says how far it is.
        abort: Stops it; without one, `abort` raises `Unsupported`.
    """

    def __init__(
        self,
        work: Callable[[], T],
        *,
        operation: str,
        vm: str | None = None,
        progress: Callable[[], Progress] | None = None,
        abort: Callable[[], None] | None = None,
    ) -> None:
        self._operation = operation
        self._vm = vm
        self._progress = progress
        self._abort = abort
        self._best = Progress(0.0, "started")
        self._future: Future[T] = Future()
        # A daemon thread: a hypervisor call that never returns must not keep the run's process alive.
        threading.Thread(target=self._run, args=(work,), name=f"op-{operation}", daemon=True).start()

    def _run(self, work: Callable[[], T]) -> None:
        try:
            self._future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._future.set_exception(error)

    def wait(self, deadline_s: float | None = None) -> T:
        limit = DEFAULT_DEADLINE_S if deadline_s is None else deadline_s
        try:
            return self._future.result(limit)
        except FutureTimeout:
            if self._future.done():  # the work itself raised a TimeoutError
                raise
            seen = self.progress()
            raise Timeout(
                f"no end after {limit:.1f} s",
                phase=seen.phase,
                last_state=f"{seen.fraction:.0%}",
                operation=self._operation,
                vm=self._vm,
            ) from None

    def progress(self) -> Progress:
        if self._future.done():
            ok = self._future.exception() is None
            return Progress(1.0, "done") if ok else Progress(self._best.fraction, "failed")
        if self._progress is not None:
            seen = self._progress()
            self._best = Progress(max(seen.fraction, self._best.fraction), seen.phase)
        return self._best

    def done(self) -> bool:
        return self._future.done()

    def abort(self) -> None:
        if self._abort is None:
            raise Unsupported(capability="abort", operation=self._operation, vm=self._vm)
        self._abort()


class Driver(ABC):
    """The mandatory core. A driver is made once for a target and a process, from any thread after that."""

    name: ClassVar[str]
    """The driver's name in lab files and in the entry point group `hvconform.drivers`."""

    option_names: ClassVar[frozenset[str]] = frozenset()
    """The keys that `[target.options]` of a lab file may hold; any other is refused with the file."""

    @classmethod
    @abstractmethod
    def connect(cls, lab: LabInventory, target: Target) -> Driver:
        """Make the driver for `target`.

        Raises:
            HostUnreachable, AccessDenied: Management cannot be reached or refuses us.
            MissingRequirement: A client library is not installed on this machine.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; no VM is touched."""

    @abstractmethod
    def facts(self) -> Facts:
        """What the target says of itself."""

    @abstractmethod
    def capabilities(self) -> Mapping[Capability, Declared]:
        """What is offered on this target. Everything else must be refused with `Unsupported`."""

    @abstractmethod
    def hosts(self) -> Sequence[str]:
        """The lab names of the hosts that this driver places VMs on."""

    @abstractmethod
    def networks(self) -> Sequence[str]:
        """The lab names of the networks that a NIC can be put on."""

    @abstractmethod
    def create(self, spec: VmSpec) -> Operation[str]:
        """Make a stopped VM and return its id. A failure leaves nothing behind.

        Raises:
            InvalidRequest: Bad image, root disk smaller than the image, unknown network.
            QuotaExceeded: More than the host can hold.
            Exists: The name is taken and the driver keeps names unique.
        """

    @abstractmethod
    def delete(self, vm: str) -> Operation[None]:
        """Remove a VM in any state, with all it owns: disks, snapshots, state files, NICs. Volumes attached from
        outside stay. A VM that is already gone is success or `NotFound`."""

    @abstractmethod
    def get(self, vm: str) -> VmState:
        """What the driver knows of one VM."""

    @abstractmethod
    def find(self, name: str) -> str:
        """The id of the VM with exactly this name; raises `NotFound`."""

    @abstractmethod
    def list(self) -> Sequence[str]:
        """The ids of all VMs that this driver made and has not deleted, and of no others."""

    @abstractmethod
    def start(self, vm: str) -> Operation[None]:
        """Power on. A running VM is left alone: a no-op or `InvalidState`."""

    @abstractmethod
    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:
        """Power off. GRACEFUL asks the guest and ends with `Timeout` if it does not follow; FORCE cuts the power."""

    @abstractmethod
    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:
        """Reboot exactly once. SOFT asks the guest and ends with `Timeout` if it does not follow; HARD resets it.
        The operation is over when the old boot has ended; the new one may still be under way."""

    @abstractmethod
    def addresses(self, vm: str) -> Sequence[str]:
        """The IP addresses that the driver knows for a running VM, without prefix length."""

    @abstractmethod
    def reclaim(self, name: str) -> None:
        """Remove whatever exists under this VM or volume name, half-made or whole, on all hosts; nothing is no error.

        `hvconform sweep` calls this with names from the ledger of a run that was killed. It must touch nothing
        but what this driver made under exactly this name.
        """

    def facet(self, kind: type[T]) -> T:
        """This driver as `kind`, one of the facet classes below.

        Raises:
            Unsupported: The driver does not implement it.
        """
        if isinstance(self, kind):
            return self
        raise Unsupported(capability=kind.__name__.lower(), operation="facet")


@runtime_checkable
class Pause(Protocol):
    """Capability `pause`: vCPUs stop, RAM stays."""

    def pause(self, vm: str) -> Operation[None]: ...

    def resume(self, vm: str) -> Operation[None]: ...


@runtime_checkable
class Suspend(Protocol):
    """Capability `suspend`: RAM goes to disk and the process ends; `start` brings the same boot back."""

    def suspend(self, vm: str) -> Operation[None]: ...


@runtime_checkable
class Snapshots(Protocol):
    """Capabilities `snapshot.*`.

    Reverting to a snapshot with memory ends in the power state at the snapshot; to one without, in the state in which
    the VM was when it was reverted, freshly booted if that was running. A running VM may be refused (`InvalidState`).
    """

    def snapshot(
        self, vm: str, name: str, *, memory: bool = False, quiesce: bool = False, exclude: Sequence[str] = ()
    ) -> Operation[str]:
        """Take a snapshot of all disks but those whose serials are in `exclude`; return its id."""
        ...

    def snapshots(self, vm: str) -> Sequence[SnapshotState]: ...

    def revert(self, vm: str, snapshot: str) -> Operation[None]: ...

    def delete_snapshot(self, vm: str, snapshot: str) -> Operation[None]: ...


@runtime_checkable
class Clone(Protocol):
    """Capability `clone`: a full, independent copy with a new identity, stopped."""

    def clone(self, vm: str, name: str, macs: Sequence[str]) -> Operation[str]:
        """`macs` are the clone's own, one a NIC in the order of the source's NICs. Returns the clone's id."""
        ...


@runtime_checkable
class Resize(Protocol):
    """Capabilities `resize.cold`, `resize.hot-vcpu`, `resize.hot-memory`."""

    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        """Give the VM another size. `None` keeps the present value. A stopped VM stays stopped. A running VM is changed
        hot where that is declared; else it is refused (`Unsupported`) or restarted, as a cloud does."""
        ...


@runtime_checkable
class ResizeRevert(Protocol):
    """Capability `resize.revert`: a resize is on trial until it is confirmed or reverted, as with Nova."""

    def confirm_resize(self, vm: str) -> Operation[None]: ...

    def revert_resize(self, vm: str) -> Operation[None]: ...


@runtime_checkable
class ResizeDisk(Protocol):
    """Capabilities `resize.disk` (stopped) and `resize.disk-online` (running)."""

    def resize_disk(self, vm: str, serial: str, size_bytes: int) -> Operation[None]:
        """Grow a disk to `size_bytes`; a smaller size raises `InvalidRequest` and changes nothing."""
        ...


@runtime_checkable
class Migrate(Protocol):
    """Capabilities `migrate.*`."""

    def migrate(self, vm: str, host: str, options: MigrateOptions = LIVE) -> Operation[None]:
        """Move the VM to `host`. On any failure it runs on the source as before, and the target is left clean."""
        ...


@runtime_checkable
class Nics(Protocol):
    """Capabilities `nic.hotplug` and `nic.link-state`."""

    def attach_nic(self, vm: str, nic: NicSpec) -> Operation[str]:
        """Add a NIC and return its id (`NicState.id`)."""
        ...

    def detach_nic(self, vm: str, nic: str) -> Operation[None]:
        """Remove a NIC; over only when the guest has let go of it."""
        ...

    def set_link(self, vm: str, nic: str, connected: bool) -> Operation[None]: ...


@runtime_checkable
class Volumes(Protocol):
    """Capability `volume.hotplug`: disks with a life of their own."""

    def create_volume(self, name: str, disk: DiskSpec, storage: str = "") -> Operation[str]:
        """Make a volume that reads as zeros and return its id."""
        ...

    def delete_volume(self, volume: str) -> Operation[None]: ...

    def volumes(self) -> Sequence[VolumeState]: ...

    def attach_volume(self, vm: str, volume: str) -> Operation[None]:
        """Attach; a volume that is attached already raises `Busy` or `Exists`."""
        ...

    def detach_volume(self, vm: str, volume: str) -> Operation[None]:
        """Detach; over only when the guest has let go of it. The volume and its data stay."""
        ...


@runtime_checkable
class Console(Protocol):
    """Capability `console.log`."""

    def console_log(self, vm: str) -> bytes:
        """What the VM wrote to its serial console, newest last, possibly cut at the front."""
        ...


@runtime_checkable
class Diagnosis(Protocol):
    """For `hvconform doctor --target`, and no capability: a driver that can say what its hosts lack."""

    def diagnose(self) -> Sequence[Finding]:
        """Look at every host; changes nothing. What cannot be looked at is a finding, too."""
        ...


FACETS: Mapping[Capability, type[Any]] = {
    Capability.PAUSE: Pause,
    Capability.SUSPEND: Suspend,
    Capability.SNAPSHOT_DISK: Snapshots,
    Capability.SNAPSHOT_MEMORY: Snapshots,
    Capability.SNAPSHOT_QUIESCE: Snapshots,
    Capability.SNAPSHOT_EXCLUDE_DISK: Snapshots,
    Capability.CLONE: Clone,
    Capability.RESIZE_COLD: Resize,
    Capability.RESIZE_HOT_VCPU: Resize,
    Capability.RESIZE_HOT_MEMORY: Resize,
    Capability.RESIZE_REVERT: ResizeRevert,
    Capability.RESIZE_DISK: ResizeDisk,
    Capability.RESIZE_DISK_ONLINE: ResizeDisk,
    Capability.MIGRATE_LIVE: Migrate,
    Capability.MIGRATE_LIVE_STORAGE: Migrate,
    Capability.MIGRATE_PAUSED: Migrate,
    Capability.MIGRATE_COLD: Migrate,
    Capability.MIGRATE_POSTCOPY: Migrate,
    Capability.MIGRATE_ABORT: Migrate,
    Capability.MIGRATE_IPV6: Migrate,
    Capability.NIC_HOTPLUG: Nics,
    Capability.NIC_LINK_STATE: Nics,
    Capability.VOLUME_HOTPLUG: Volumes,
    Capability.CONSOLE_LOG: Console,
}
"""The facet that a declared capability needs."""


def disagreements(driver: Driver) -> Sequence[str]:
    """Where declared capabilities and implemented facets do not agree, a sentence each.

    A facet may be implemented and none of its capabilities declared only if its calls raise `Unsupported`, which the
    refusal checks prove; what is reported here is a capability declared without its facet.
    """
    return [
        f"{driver.name} declares {capability} but does not implement the facet {FACETS[capability].__name__}"
        for capability in driver.capabilities()
        if capability in FACETS and not isinstance(driver, FACETS[capability])
    ]
