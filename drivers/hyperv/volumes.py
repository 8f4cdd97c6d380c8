"""Volumes: VHDX files with a life of their own. Who has one attached is read from the VMs at every call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from conformance.driver import Completed, Operation
from conformance.errors import Busy, DriverError, Exists, InvalidRequest, InvalidState, NotFound
from conformance.lab.inventory import Storage
from conformance.model import DiskSpec, PowerState, Progress, VolumeState
from drivers.hyperv import naming
from drivers.hyperv.base import OFF, Located, join, root
from drivers.hyperv.create import Create
from drivers.hyperv.operations import Steps
from drivers.hyperv.transport.base import Command

RUNNING = PowerState.RUNNING


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume's base file and where it lies; `host` is a host that sees it."""

    id: str
    serial: str
    name: str
    path: str
    storage: Storage
    host: str


class VolumeStore(Create):
    """The facet Volumes."""

    def create_volume(self, name: str, disk: DiskSpec, storage: str = "") -> Operation[str]:
        naming.check_volume_name(name, "create_volume")
        naming.check_serial(disk.serial, "create_volume")
        if disk.size_bytes <= 0 or disk.size_bytes % 4096:
            raise InvalidRequest("a volume has a whole number of 4 KiB sectors", operation="create_volume", vm=name)
        place = self._storage(storage, "create_volume")
        id = naming.volume_id(name)
        if any(volume.id == id for volume in self._known_volumes()):
            raise Exists(f"the name {name!r} is taken", operation="create_volume", vm=name)
        host = self._hosts.names[0]
        path = join(root(place), naming.volume_file(name, disk.serial))
        return self._run("create_volume", None, self._making_volume(host, path, disk, id))

    def _making_volume(self, host: str, path: str, disk: DiskSpec, id: str) -> Steps[str]:
        try:
            self._new_disk(host, path, disk.size_bytes, disk.serial)
            yield from self._identified(host, {path: disk.serial})
        except BaseException:
            with suppress(DriverError):
                self._remove_file(host, path)
            raise
        return id

    def _remove_file(self, host: str, path: str) -> None:
        with suppress(NotFound):
            self._ask(host, Command("Remove-Item", {"LiteralPath": path, "Force": True}))

    def _known_volumes(self) -> Iterator[Volume]:
        """All volumes; one on a shared storage is seen from the first host only."""
        for number, host in enumerate(self._hosts.names):
            for storage in self._lab.storages:
                if storage.shared and number:
                    continue
                with self._about("volumes", None, host):
                    rows = self._ask(
                        host,
                        Command(
                            "Get-ChildItem", {"LiteralPath": root(storage), "Filter": f"{naming.PREFIX}vol-*.vhdx"}
                        ),
                        select=("FullName",),
                    )
                for row in rows:
                    path = str(row["FullName"])
                    parsed = None if naming.is_layer(path) else naming.parse_volume_file(path)
                    if parsed is not None:
                        yield Volume(parsed[0], parsed[1], parsed[2], path, storage, host)

    def _volume(self, id: str, operation: str) -> Volume:
        for volume in self._known_volumes():
            if volume.id == id:
                return volume
        raise NotFound(f"no volume {id}", operation=operation)

    def _holders(self) -> dict[str, list[str]]:
        """Ids of the VMs that have a volume attached, by the volume's id; raises where a host does not answer."""
        held: dict[str, list[str]] = {}
        for host in self._hosts.names:
            with self._about("volumes", None, host):
                rows = self._ask(host, Command("Get-VM"), Command("Get-VMHardDiskDrive"), select=("VMId", "Path"))
            for row in rows:
                parsed = naming.parse_volume_file(str(row["Path"] or ""))
                if parsed is not None:
                    held.setdefault(parsed[0], []).append(str(row["VMId"]).lower())
        return held

    def delete_volume(self, volume: str) -> Operation[None]:
        found = self._volume(volume, "delete_volume")
        holders = self._holders().get(volume, [])
        if holders:
            raise Busy(f"the volume is attached to {', '.join(holders)}", operation="delete_volume")
        with self._about("delete_volume", None, found.host):
            self._remove_file(found.host, found.path)
        return Completed(None)

    def volumes(self) -> Sequence[VolumeState]:
        found, held = list(self._known_volumes()), self._holders()
        states = []
        for volume in found:
            with self._about("volumes", None, volume.host):
                (disk,) = self._ask(volume.host, Command("Get-VHD", {"Path": volume.path}), select=("Size",))
            attached = tuple(dict.fromkeys(held.get(volume.id, ())))
            states.append(VolumeState(volume.id, volume.name, int(disk["Size"]), attached))
        return states

    def attach_volume(self, vm: str, volume: str) -> Operation[None]:
        here = self._locate(vm, "attach_volume")
        found = self._volume(volume, "attach_volume")
        self._require(here, (RUNNING, *OFF), "attach_volume")
        self._idle(here, "attach_volume")
        if holders := self._holders().get(volume):
            raise Busy(f"the volume is attached to {', '.join(holders)}", operation="attach_volume", vm=vm)
        if not found.storage.shared and found.host != here.host:
            raise InvalidRequest(
                f"the volume is on {found.host}, the VM on {here.host}", operation="attach_volume", vm=vm
            )
        drives = self._vm_ask(here, "attach_volume", Command("Get-VMHardDiskDrive"), select=("Path",))
        if any(naming.serial_of(str(row["Path"] or "")) == found.serial for row in drives):
            raise Exists(f"a disk with serial {found.serial} is attached already", operation="attach_volume", vm=vm)
        self._vm_ask(
            here, "attach_volume", Command("Add-VMHardDiskDrive", {"ControllerType": "SCSI", "Path": found.path})
        )
        return Completed(None)

    def detach_volume(self, vm: str, volume: str) -> Operation[None]:
        here = self._locate(vm, "detach_volume")
        self._require(here, (RUNNING, *OFF), "detach_volume")
        self._idle(here, "detach_volume")
        drives = self._vm_ask(here, "detach_volume", Command("Get-VMHardDiskDrive"), select=("Path",))
        for row in drives:
            path = str(row["Path"] or "")
            parsed = naming.parse_volume_file(path)
            if parsed is None or parsed[0] != volume:
                continue
            if naming.is_layer(path):
                # what was written since the checkpoint is in the layer, which the VM would keep
                raise InvalidState(
                    "a checkpoint holds the volume; delete it first",
                    current="with checkpoints",
                    allowed=("without checkpoints",),
                    operation="detach_volume",
                    vm=vm,
                )
            return self._run("detach_volume", vm, self._detaching(here, path))
        self._volume(volume, "detach_volume")
        raise NotFound(f"the volume {volume} is not attached", operation="detach_volume", vm=vm)

    def _detaching(self, here: Located, path: str) -> Steps[None]:
        """Over when the drive is gone from the machine, not only from its configuration."""
        drive = [
            Command("Get-VMHardDiskDrive"),
            Command("Where-Object", {"Property": "Path", "EQ": True, "Value": path}),
        ]
        self._vm_ask(here, "detach_volume", *drive, Command("Remove-VMHardDiskDrive"))
        while self._vm_ask(here, "detach_volume", *drive, select=("Path",)):
            yield Progress(0.5, "waiting for the guest to let go")

    def reclaim(self, name: str) -> None:
        super().reclaim(name)
        prefix = naming.volume_prefix(naming.volume_id(name))
        for volume in list(self._known_volumes()):
            if f"{naming.PREFIX}vol-{volume.id}." != prefix:
                continue
            for vm in self._holders().get(volume.id, ()):
                here = self._locate(vm, "reclaim")
                for row in self._vm_ask(here, "reclaim", Command("Get-VMHardDiskDrive"), select=("Path",)):
                    if naming.parse_volume_file(str(row["Path"] or "")) is not None:
                        self._run("reclaim", vm, self._detaching(here, str(row["Path"]))).wait(self._hosts.deadline_s)
            self._remove_file(volume.host, volume.path)
