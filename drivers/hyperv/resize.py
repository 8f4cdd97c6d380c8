"""Sizes: vCPUs of a stopped VM, memory of any, and the growth of VHDX files, online on SCSI."""

from __future__ import annotations

from conformance.driver import Completed, Operation
from conformance.errors import DriverError, InvalidRequest, InvalidState, NotFound, Unsupported
from conformance.model import PowerState
from drivers.hyperv import naming
from drivers.hyperv.base import OFF, Located
from drivers.hyperv.create import Create
from drivers.hyperv.transport.base import Command, JsonValue

RUNNING = PowerState.RUNNING


class Sizes(Create):
    """The facets Resize and ResizeDisk."""

    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        here = self._locate(vm, "resize")
        power = self._require(here, (*OFF, RUNNING), "resize")
        self._idle(here, "resize")
        if (vcpus is not None and vcpus < 1) or (memory_mib is not None and memory_mib < 32):
            raise InvalidRequest("at least one vCPU and 32 MiB are needed", operation="resize", vm=vm)
        if memory_mib is not None and memory_mib % 2:
            raise InvalidRequest("Hyper-V gives memory in units of 2 MiB", operation="resize", vm=vm)
        self._check_capacity(here.host, "resize", vm, memory_mib=memory_mib or 0, vcpus=vcpus or 0)
        before = (int(here.row["ProcessorCount"]), int(here.row["MemoryStartup"]))
        if power is RUNNING and vcpus not in (None, before[0]):
            raise Unsupported(
                "Hyper-V changes vCPUs of a stopped VM only", capability="resize.hot-vcpu", operation="resize", vm=vm
            )
        if power is RUNNING and memory_mib not in (None, before[1] >> 20):
            # the host would do it, but whether the guest then sees it is up to a balloon driver that nobody can ask
            raise Unsupported(capability="resize.hot-memory", operation="resize", vm=vm)
        try:
            self._set_size(here, vcpus or before[0], (memory_mib << 20) if memory_mib else before[1])
        except DriverError:
            self._set_size(here, *before)
            raise
        return Completed(None)

    def _set_size(self, here: Located, vcpus: int, memory_bytes: int) -> None:
        if here.power is RUNNING:
            return
        sizes: dict[str, JsonValue] = {"ProcessorCount": vcpus, "MemoryStartupBytes": memory_bytes}
        self._vm_ask(here, "resize", Command("Set-VM", sizes))

    def resize_disk(self, vm: str, serial: str, size_bytes: int) -> Operation[None]:
        here = self._locate(vm, "resize_disk")
        power = self._require(here, (*OFF, RUNNING), "resize_disk")
        self._idle(here, "resize_disk")
        path, controller, size = self._disk(here, serial)
        if size_bytes < size:
            raise InvalidRequest(f"{serial} has {size} bytes; it can only grow", operation="resize_disk", vm=vm)
        if size_bytes % 4096:
            raise InvalidRequest(
                f"{size_bytes} bytes is not a whole number of 4 KiB sectors", operation="resize_disk", vm=vm
            )
        if naming.is_layer(path):
            # growing a layer of a chain makes the chain unusable for its checkpoints
            raise InvalidState(
                "the disk has checkpoints; remove them first",
                current="with checkpoints",
                allowed=("without checkpoints",),
                operation="resize_disk",
                vm=vm,
            )
        if power is RUNNING and controller != "SCSI":
            raise Unsupported(
                "only disks on SCSI grow online", capability="resize.disk-online", operation="resize_disk", vm=vm
            )
        if size_bytes > size:
            with self._about("resize_disk", vm, here.host):
                self._ask(here.host, Command("Resize-VHD", {"Path": path, "SizeBytes": size_bytes}))
        return Completed(None)

    def _disk(self, here: Located, serial: str) -> tuple[str, str, int]:
        """(path, controller type, size in bytes) of a disk."""
        rows = self._vm_ask(here, "resize_disk", Command("Get-VMHardDiskDrive"), select=("Path", "ControllerType"))
        for row in rows:
            if naming.serial_of(str(row["Path"] or "")) == serial:
                (disk,) = self._ask(here.host, Command("Get-VHD", {"Path": row["Path"]}), select=("Size",))
                return str(row["Path"]), str(row["ControllerType"]), int(disk["Size"])
        raise NotFound(f"no disk {serial!r}", operation="resize_disk", vm=here.vm, host=here.host)
