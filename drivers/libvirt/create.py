"""Making and removing VMs: everything is checked before anything is made, and what fails is undone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from conformance.driver import Operation, Running
from conformance.errors import (
    DriverError,
    Exists,
    HostUnreachable,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unsupported,
)
from conformance.lab.inventory import Image, Storage
from conformance.model import Firmware, NicSpec, VmSpec
from drivers.libvirt import filters, naming, storage, xml
from drivers.libvirt.base import Base, Located
from drivers.libvirt.binding import lv
from drivers.libvirt.errors import translated

ROOT = "root"
"""Serial of the root disk."""


class Create(Base):
    """create, delete, reclaim."""

    def create(self, spec: VmSpec) -> Operation[str]:
        naming.check_name(spec.name, "create")
        id = naming.vm_uuid(spec.name)
        host = self._host_for(spec)
        image = self._image(spec)
        place = self._storage(spec.storage, "create")
        self._check_request(spec, image)
        self._locks.acquire(id, "create")
        try:
            with translated(operation="create", vm=spec.name, host=host):
                conn = self._hosts.get(host)
                self._check_free(spec.name, id, conn)
                self._check_capacity("create", conn, host, vcpus=spec.vcpus, memory_mib=spec.memory_mib)
                domain_type = self._domain_type(conn)
                storage.check_image(conn, host, image)
                uefi = self._wants_uefi(spec, image)
                if uefi and not self._uefi_offered(conn):
                    raise Unsupported(capability="firmware.uefi", operation="create", vm=spec.name, host=host)
        except BaseException:
            self._locks.release(id)
            raise

        def work() -> str:
            try:
                with translated(operation="create", vm=spec.name, host=host):
                    self._make(spec, id, conn, image, place, domain_type, uefi)
                return id
            finally:
                self._locks.release(id)

        self._last[id] = host
        return Running(work, operation="create", vm=id)

    # checks, before anything is made

    def _host_for(self, spec: VmSpec) -> str:
        host = spec.host or self._target.hosts[0]
        if host not in self._target.hosts:
            raise InvalidRequest(f"no host {host!r}", operation="create", vm=spec.name)
        return host

    def _image(self, spec: VmSpec) -> Image:
        for image in self._lab.images:
            if image.name == spec.image:
                return image
        raise InvalidRequest(f"no image {spec.image!r}", operation="create", vm=spec.name)

    def _check_request(self, spec: VmSpec, image: Image) -> None:
        def refuse(why: str) -> InvalidRequest:
            return InvalidRequest(why, operation="create", vm=spec.name)

        if spec.vcpus < 1 or spec.memory_mib < 1:
            raise refuse("a VM needs a vCPU and memory")
        if spec.max_vcpus and spec.max_vcpus < spec.vcpus:
            raise refuse(f"max_vcpus {spec.max_vcpus} is below vcpus {spec.vcpus}")
        if spec.root_disk_bytes and spec.root_disk_bytes < image.size_bytes:
            raise refuse(f"a root disk of {spec.root_disk_bytes} bytes cannot hold an image of {image.size_bytes}")
        if not image.boot_loader and (spec.firmware is not None or self._direct(image) is None):
            raise refuse(f"image {image.name} has no boot loader, and no kernel that this VM can be booted from")
        serials = [ROOT, *(disk.serial for disk in spec.disks)]
        for disk in spec.disks:
            naming.check_serial(disk.serial, "create")
        if len(set(serials)) != len(serials):
            raise refuse(f"serials are not unique: {', '.join(serials)}")
        for size in (spec.root_disk_bytes, *(disk.size_bytes for disk in spec.disks)):
            if size % 512 or size < 0:
                raise refuse(f"{size} bytes is not a whole number of sectors")
        if any(disk.size_bytes == 0 for disk in spec.disks):
            raise refuse("a disk has no size")
        for nic in spec.nics:
            self._nic(nic, "create")
        if len({nic.mac for nic in spec.nics}) != len(spec.nics):
            raise refuse("two NICs have one MAC")

    def _nic(self, nic: NicSpec, operation: str) -> xml.Nic:
        """A NIC as it goes into XML; raises `InvalidRequest` for an unknown network or a bad MAC."""
        naming.check_mac(nic.mac, operation)
        for network in self._lab.networks:
            if network.name == nic.network:
                return xml.Nic(nic.mac, network.bridge, network.mtu, nic.anti_spoof)
        raise InvalidRequest(f"no network {nic.network!r}", operation=operation)

    def _check_free(self, name: str, id: str, conn: Any) -> None:
        for host in self._hosts.names:
            if self._lookup(host, id) is not None:
                raise Exists(f"a VM with this name is on {host}", operation="create", vm=name, host=host)
        try:
            conn.lookupByName(naming.libvirt_name(name))
        except lv.libvirtError as error:
            if error.get_error_code() == lv.VIR_ERR_NO_DOMAIN:
                return
            raise
        raise Exists("a domain with this name, not made by this driver, is on the host", operation="create", vm=name)

    def _check_capacity(self, operation: str, conn: Any, host: str, *, vcpus: int, memory_mib: int) -> None:
        """Raises `QuotaExceeded` for what the host could not hold even if it were empty."""
        room = self._lab.host(host).memory_mib or conn.getInfo()[1]
        if memory_mib > room:
            raise QuotaExceeded(f"{memory_mib} MiB asked for; the host has {room} MiB", operation=operation, host=host)
        limit = self._flavour.max_vcpus or conn.getMaxVcpus(self._domain_type(conn))
        if vcpus > limit:
            raise QuotaExceeded(f"{vcpus} vCPUs asked for; a VM can have {limit}", operation=operation, host=host)

    def _wants_uefi(self, spec: VmSpec, image: Image) -> bool:
        if spec.firmware is None and self._direct(image) is not None:
            return False
        return (spec.firmware or image.firmware) is Firmware.UEFI

    def _direct(self, image: Image) -> xml.DirectBoot | None:
        wanted = self._options.direct_kernel or self._flavour.direct_only or not image.boot_loader
        kernel = image.bzimage if self._flavour.bzimage else image.kernel
        if not (wanted and kernel and image.initrd):
            return None
        console = "" if "console=" in image.cmdline else self._flavour.direct_kernel_args
        return xml.DirectBoot(str(kernel), str(image.initrd), f"{console} {image.cmdline}".strip())

    # making

    def _make(
        self, spec: VmSpec, id: str, conn: Any, image: Image, place: Storage, domain_type: str, uefi: bool
    ) -> None:
        undo: list[Callable[[], object]] = []
        try:
            disks = []
            sizes = [(ROOT, spec.root_disk_bytes or image.size_bytes), *((d.serial, d.size_bytes) for d in spec.disks)]
            for serial, size in sizes:
                path = f"{place.path}/{naming.disk_file(id, serial)}"
                base = (str(image.path), image.format) if serial == ROOT else None
                storage.create_disk(conn, path, size, backing=base)
                undo.append(lambda path=path: storage.delete(conn, path))  # type: ignore[misc]
                disks.append(xml.Disk(path, serial, self._options.disk_cache))
            if any(nic.anti_spoof for nic in spec.nics):
                filters.ensure(conn)
            tree = xml.domain(
                xml.Domain(
                    name=spec.name,
                    uuid=id,
                    type=domain_type,
                    machine=self._options.machine or self._flavour.machine,
                    vcpus=spec.vcpus,
                    max_vcpus=spec.max_vcpus,
                    memory_mib=spec.memory_mib,
                    console_path=f"{place.path}/{naming.console_file(id)}",
                    storage=place.name,
                    image=image.name,
                    direct=self._direct(image) if spec.firmware is None else None,
                    uefi=uefi,
                    nvram_path=f"{place.path}/{naming.nvram_file(id)}",
                    disks=tuple(disks),
                    nics=tuple(self._nic(nic, "create") for nic in spec.nics),
                ),
                self._flavour,
            )
            conn.defineXML(xml.text(tree))
        except BaseException:
            self._undo(undo)
            raise

    # removing

    def delete(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "delete")
        return self._start("delete", here, lambda: self._remove(here), override=True)

    def _remove(self, here: Located) -> None:
        tree = here.tree()
        here.cut()
        if self._attached(tree):
            # a volume outlives the VM, but what this VM's snapshots hold inside of it must not
            for snapshot in self._list_snapshots(here):
                snapshot.delete(0)
        # the files first: if this is cut short, the domain is still there to be deleted again
        for item in self._lab.storages:
            storage.delete_prefix(here.conn, str(item.path), naming.vm_prefix(here.vm))
        self._undefine(here)
        if tree.find("devices/interface/filterref") is not None:
            filters.drop(here.conn)
        self._last.pop(here.vm, None)

    def reclaim(self, name: str) -> None:
        id, volume = naming.vm_uuid(name), naming.volume_id(name)
        silent: DriverError | None = None
        for host in self._hosts.names:
            try:
                with translated(operation="reclaim", vm=name, host=host):
                    conn = self._hosts.get(host)
                    # what a killed migration made on its target goes by itself, perhaps just now
                    with suppress(NotFound), translated(operation="reclaim", vm=name, host=host):
                        here = self._lookup(host, id)
                        if here is not None:
                            self._remove(here)
                    for item in self._lab.storages:
                        for prefix in (naming.vm_prefix(id), naming.volume_prefix(volume)):
                            storage.delete_prefix(conn, str(item.path), prefix)
            except HostUnreachable as error:
                silent = error
        if silent is not None:
            raise silent

    # what the host offers

    def _domain_type(self, conn: Any) -> str:
        """The best domain type of this flavour that the host offers."""
        if self._options.domain_type:
            return self._options.domain_type
        for kind in self._flavour.domain_types:
            try:
                conn.getDomainCapabilities(None, "x86_64", None, kind, 0)
            except lv.libvirtError:
                continue
            return kind
        raise Unsupported("the host offers no domain type of this flavour", capability="create", operation="create")

    def _uefi_offered(self, conn: Any) -> bool:
        found = conn.getDomainCapabilities(None, "x86_64", None, self._domain_type(conn), 0)
        return "<value>efi</value>" in found
