"""Defects inside the Hyper-V driver, from the history of the drivers for Hyper-V that clouds ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from conformance.driver import Completed, Driver, Operation
from conformance.errors import DriverError, InvalidState, NotFound
from conformance.model import PowerState, VmState
from drivers.hyperv.base import Located, Rows
from drivers.hyperv.driver import HypervDriver
from drivers.hyperv.operations import Steps
from drivers.hyperv.transport.base import Command
from drivers.wrapping import Defect

__all__ = ["DEFECTS"]


class AttachLeaksDrive(HypervDriver):
    def attach_volume(self, vm: str, volume: str) -> Operation[None]:
        """Adds the drive first, and leaves it empty when there is no disk for it."""
        try:
            attaching: Operation[None] = super().attach_volume(vm, volume)
        except DriverError:
            here = self._locate(vm, "attach_volume")
            self._vm_ask(here, "attach_volume", Command("Add-VMHardDiskDrive", {"ControllerType": "SCSI"}))
            raise
        return attaching


class InvalidStateIsSuccess(HypervDriver):
    """Takes 32775, invalid state, for success."""

    def _require(self, here: Located, allowed: Any, operation: str) -> PowerState:
        try:
            return super()._require(here, allowed, operation)
        except InvalidState:
            return here.power

    def _vm_ask(
        self, here: Located, operation: str, *commands: Command, select: Sequence[str] = (), depth: int = 2
    ) -> Rows:
        try:
            return super()._vm_ask(here, operation, *commands, select=select, depth=depth)
        except InvalidState:
            return []


class NameIsWildcard(HypervDriver):
    def find(self, name: str) -> str:
        for host in self._hosts.names:
            try:
                rows = self._ask(host, Command("Get-VM", {"Name": name}), select=("Id",))
            except DriverError:
                continue
            if rows:
                return str(rows[0]["Id"])
        raise NotFound(f"no VM named {name!r}", operation="find", vm=name)


class SourceFolderLeft(HypervDriver):
    def _is_same_folder(self, move: Any) -> bool:  # noqa: ARG002
        return True


class MergeNotAwaited(HypervDriver):
    def _settled(self, here: Located, phase: str) -> Steps[Located]:  # noqa: ARG002
        return here
        yield  # a generator all the same


class DisksLeft(HypervDriver):
    def _remove_folder(self, host: str, folder: str) -> None:
        """Remove-VM is all that is done."""


class NoIdentifier(HypervDriver):
    def _identify(self, host: str, path: str, serial: str) -> None:
        """A disk keeps the identifier that Hyper-V gave it."""

    def _identified(self, host: str, serials: dict[str, str]) -> Steps[None]:  # noqa: ARG002
        return
        yield


class NicNotReplugged(HypervDriver):
    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        super().resize(vm, vcpus=vcpus, memory_mib=memory_mib).wait()
        here = self._locate(vm, "resize")
        self._vm_ask(here, "resize", Command("Get-VMNetworkAdapter"), Command("Disconnect-VMNetworkAdapter"))
        return Completed(None)


class StateComparedByIdentity(HypervDriver):
    """A state that was seen once is never found to have changed."""

    def get(self, vm: str) -> VmState:
        state: VmState = super().get(vm)
        seen: dict[str, VmState] = self.__dict__.setdefault("_seen_states", {})
        if state.power is PowerState.STOPPED and vm in seen:
            return seen[vm]
        return seen.setdefault(vm, state) if state.power is PowerState.RUNNING else state

    def stop(self, vm: str, mode: Any = None) -> Operation[None]:
        self.get(vm)
        stopping: Operation[None] = super().stop(vm, mode) if mode is not None else super().stop(vm)
        return stopping


class CapacityUnchecked(HypervDriver):
    def _check_capacity(self, host: str, operation: str, vm: str, *, memory_mib: int = 0, vcpus: int = 0) -> None:
        """Hyper-V takes any size for a VM that is off."""


def _planting(broken: type[HypervDriver]) -> Callable[[Driver], Driver]:
    def plant(driver: Driver) -> Driver:
        driver.__class__ = broken
        return driver

    return plant


def _inside(
    name: str, broken: type[HypervDriver], source: str, description: str, caught_by: tuple[str, ...], observer: str
) -> Defect:
    return Defect(name, source, description, caught_by, observer, _planting(broken), only="hyperv")


DEFECTS = (
    _inside(
        "hyperv-attach-leaks-drive",
        AttachLeaksDrive,
        "os-win 2997b90, LP#1675834",
        "A failed attach leaves an empty drive",
        ("disk.attach-failure-cleans",),
        "host",
    ),
    _inside(
        "hyperv-invalid-state-is-success",
        InvalidStateIsSuccess,
        "os-win counts return value 32775 as success",
        "What is refused in this state is reported as done",
        ("err.invalid-state-typed", "err.state-preserved-on-reject"),
        "driver",
    ),
    _inside(
        "hyperv-name-is-wildcard",
        NameIsWildcard,
        "windows-powershell-docs#3768: -Name takes wildcards",
        "A name finds other VMs, and one with brackets does not find itself",
        ("id.lookup-exact",),
        "driver",
    ),
    _inside(
        "hyperv-source-folder-left",
        SourceFolderLeft,
        "nova 6df24c0f50, LP#1465446",
        "The VM's folder stays on the source after a migration",
        ("mig.block-migration-content",),
        "host",
    ),
    _inside(
        "hyperv-merge-not-awaited",
        MergeNotAwaited,
        "synthetic: Remove-VMSnapshot ends before the disks have merged",
        "A checkpoint is called removed while its disks merge",
        ("snap.delete-middle-keeps-data",),
        "driver",
    ),
    _inside(
        "hyperv-disks-left",
        DisksLeft,
        "synthetic: Remove-VM deletes no virtual hard disk",
        "Disks outlive their VM",
        ("del.no-disk-leak",),
        "host",
    ),
    _inside(
        "hyperv-no-identifier",
        NoIdentifier,
        "synthetic: a disk shows the identifier that Hyper-V made up",
        "The guest cannot tell its disks apart by serial",
        ("boot.disk-serial-exposed",),
        "guest",
    ),
    _inside(
        "hyperv-nic-not-replugged",
        NicNotReplugged,
        "nova 568a682e5e, LP#1657424",
        "A resized VM has no network",
        ("resize.nic-replugged",),
        "wire",
    ),
    _inside(
        "hyperv-state-by-identity",
        StateComparedByIdentity,
        "os-win 1f8200e, LP#1794068: numbers compared with `is`",
        "A stopped VM is reported as running",
        ("stop.really-stopped",),
        "driver",
    ),
    _inside(
        "hyperv-capacity-unchecked",
        CapacityUnchecked,
        "nova 9740e18a31, LP#1555699: a resize that cannot be is not rolled back",
        "A size that no host has is accepted",
        ("resize.failed-rolls-back",),
        "driver",
    ),
)
