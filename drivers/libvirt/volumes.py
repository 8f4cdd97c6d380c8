"""Volumes: disks with a life of their own. A file is all there is of one, and the domains say who has it attached."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.driver import Operation, Running
from conformance.errors import Busy, Exists, InvalidRequest, NotFound
from conformance.model import DiskSpec, VolumeState
from drivers.libvirt import naming, storage, xml
from drivers.libvirt.binding import lv
from drivers.libvirt.devices import CHANGEABLE, Unplug
from drivers.libvirt.errors import translated


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume's file and the hosts that can use it."""

    id: str
    name: str
    serial: str
    path: str
    hosts: tuple[str, ...]


class VolumeStore(Unplug):
    """The facet Volumes."""

    def create_volume(self, name: str, disk: DiskSpec, storage: str = "") -> Operation[str]:
        naming.check_volume_name(name, "create_volume")
        naming.check_serial(disk.serial, "create_volume")
        if disk.size_bytes <= 0 or disk.size_bytes % 512:
            raise InvalidRequest(f"{disk.size_bytes} bytes is no size for a disk", operation="create_volume", vm=name)
        place = self._storage(storage, "create_volume")
        id = naming.volume_id(name)
        host = self._hosts.names[0]
        self._locks.acquire(id, "create_volume")

        def work() -> str:
            try:
                with translated(operation="create_volume", vm=name, host=host):
                    if any(item.id == id for item in self._all_volumes()):
                        raise Exists("a volume has this name", operation="create_volume", vm=name)
                    path = f"{place.path}/{naming.volume_file(name, disk.serial)}"
                    _make(self._hosts.get(host), path, disk.size_bytes)
                return id
            finally:
                self._locks.release(id)

        return Running(work, operation="create_volume", vm=id)

    def delete_volume(self, volume: str) -> Operation[None]:
        self._locks.acquire(volume, "delete_volume")
        try:
            found = self._free_volume(volume, "delete_volume")
        except BaseException:
            self._locks.release(volume)
            raise

        def work() -> None:
            try:
                with translated(operation="delete_volume", vm=volume, host=found.hosts[0]):
                    storage.delete(self._hosts.get(found.hosts[0]), found.path)
            finally:
                self._locks.release(volume)

        return Running(work, operation="delete_volume", vm=volume)

    def volumes(self) -> Sequence[VolumeState]:
        with translated(operation="volumes"):
            users = self._users()
            return tuple(
                VolumeState(
                    id=item.id,
                    name=item.name,
                    size_bytes=storage.capacity(self._hosts.get(item.hosts[0]), item.path),
                    attached_to=tuple(users.get(item.path, ())),
                )
                for item in self._all_volumes()
            )

    def attach_volume(self, vm: str, volume: str) -> Operation[None]:
        here = self._locate(vm, "attach_volume")
        self._require(here, CHANGEABLE, "attach_volume")
        self._locks.acquire(here.vm, "attach_volume")
        try:
            self._locks.acquire(volume, "attach_volume")
        except Busy:
            self._locks.release(here.vm)
            raise
        try:
            found = self._free_volume(volume, "attach_volume", vm)
            if here.host not in found.hosts:
                raise InvalidRequest(
                    f"volume {found.name} lies on {found.hosts[0]}, the VM is on {here.host}",
                    operation="attach_volume",
                    vm=vm,
                    host=here.host,
                )
            with self._guard("attach_volume", here):
                trees = [here.tree(), here.tree(inactive=True)]
            if any(xml.find_disk(tree, serial=found.serial) is not None for tree in trees):
                raise Exists(f"the VM has a disk {found.serial}", operation="attach_volume", vm=vm, host=here.host)
        except BaseException:
            self._locks.release(volume)
            self._locks.release(here.vm)
            raise

        def work() -> None:
            try:
                both = ET.Element("domain")
                devices = xml.child(both, "devices")
                for tree in trees:
                    devices.extend(xml.disks(tree))
                disk = xml.Disk(found.path, found.serial, self._options.disk_cache)
                element = xml.disk(disk, xml.free_target(both, self._flavour), self._flavour)
                here.dom.attachDeviceFlags(xml.text(element), here.config_flags)
            finally:
                self._locks.release(volume)

        return self._start("attach_volume", here, work, held=True)

    def detach_volume(self, vm: str, volume: str) -> Operation[None]:
        here = self._locate(vm, "detach_volume")
        self._require(here, CHANGEABLE, "detach_volume")
        with self._guard("detach_volume", here):
            element = self._volume_in(here.tree(), volume)
            if element is None:
                element = self._volume_in(here.tree(inactive=True), volume)
            if element is None:
                raise NotFound(f"volume {volume} is not attached", operation="detach_volume", vm=vm, host=here.host)
            for snapshot in self._list_snapshots(here):
                domain = ET.fromstring(snapshot.getXMLDesc(0)).find("domain")
                if domain is not None and self._volume_in(domain, volume) is not None:
                    raise Busy(
                        f"snapshot {snapshot.getName()} holds the volume's state too; delete it first",
                        operation="detach_volume",
                        vm=vm,
                        host=here.host,
                    )
        path = xml.disk_path(element)
        return self._start(
            "detach_volume",
            here,
            lambda: self._unplug(here, "detach_volume", lambda root: xml.find_disk(root, path=path)),
        )

    # finding

    def _volume_in(self, root: ET.Element, volume: str) -> ET.Element | None:
        for item in xml.disks(root):
            parsed = naming.parse_volume_file(xml.disk_path(item))
            if parsed is not None and parsed[0] == volume:
                return item
        return None

    def _all_volumes(self) -> Iterator[Volume]:
        for place in self._lab.storages:
            # a shared storage shows the same files on every host
            for host in self._hosts.names[:1] if place.shared else self._hosts.names:
                hosts = self._hosts.names if place.shared else (host,)
                for file in storage.names(self._hosts.get(host), str(place.path)):
                    parsed = naming.parse_volume_file(file)
                    if parsed is not None:
                        yield Volume(parsed[0], parsed[2], parsed[1], f"{place.path}/{file}", hosts)

    def _users(self) -> dict[str, list[str]]:
        """The VMs by the volume file they have, running or in their definition, on all hosts."""
        users: dict[str, list[str]] = {}
        for host in self._hosts.names:
            for dom in self._hosts.get(host).listAllDomains(0):
                for path in _disk_paths(dom):
                    if naming.parse_volume_file(path) is not None and dom.UUIDString() not in users.get(path, []):
                        users.setdefault(path, []).append(dom.UUIDString())
        return users

    def _free_volume(self, volume: str, operation: str, vm: str = "") -> Volume:
        """The volume with this id, which no VM but `vm` may have; raises `NotFound`, `Exists`, `Busy`."""
        with translated(operation=operation, vm=volume):
            found = next((item for item in self._all_volumes() if item.id == volume), None)
            if found is None:
                raise NotFound(f"no volume {volume!r}", operation=operation, vm=vm or None)
            users = self._users().get(found.path, [])
        if operation == "revert":
            users = [user for user in users if user != vm]
        if vm in users:
            raise Exists(f"volume {found.name} is attached already", operation=operation, vm=vm)
        if users:
            raise Busy(f"volume {found.name} is attached to {users[0]}", operation=operation, vm=vm or None)
        return found


def _make(conn: Any, path: str, size_bytes: int) -> None:
    storage.create_disk(conn, path, size_bytes)


def _disk_paths(dom: Any) -> set[str]:
    paths = set()
    try:
        for flags in (0, lv.VIR_DOMAIN_XML_INACTIVE):
            paths |= {xml.disk_path(item) for item in xml.disks(ET.fromstring(dom.XMLDesc(flags)))}
    except lv.libvirtError as error:
        if error.get_error_code() != lv.VIR_ERR_NO_DOMAIN:  # deleted since it was listed
            raise
    return paths
