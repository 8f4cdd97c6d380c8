"""Resize: vCPUs, memory and disks."""

from __future__ import annotations

from conformance.driver import Completed, Operation
from conformance.errors import InvalidRequest, NotFound
from conformance.model import PowerState
from drivers.libvirt import storage, xml
from drivers.libvirt.base import OFF, Located
from drivers.libvirt.binding import lv
from drivers.libvirt.create import Create
from drivers.libvirt.errors import translated


class Sizes(Create):
    """The facets Resize and ResizeDisk."""

    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        here = self._locate(vm, "resize")
        if (vcpus is not None and vcpus < 1) or (memory_mib is not None and memory_mib < 1):
            raise InvalidRequest("a VM needs a vCPU and memory", operation="resize", vm=vm)
        current = self._require(here, (PowerState.RUNNING, *OFF), "resize")
        with self._guard("resize", here):
            tree = here.tree(inactive=current in OFF)
        vcpu = tree.find("vcpu")
        assert vcpu is not None
        limit = int(vcpu.text or 0)
        had = int(vcpu.get("current") or limit)
        wanted, memory = vcpus or had, memory_mib or xml.memory_mib(tree)
        with translated(operation="resize", vm=vm, host=here.host):
            self._check_capacity("resize", here.conn, here.host, vcpus=wanted, memory_mib=memory)
        if current is PowerState.RUNNING:
            return self._resize_hot(here, wanted, had, limit, memory, xml.memory_mib(tree))

        def work() -> None:
            xml.set_size(tree, vcpus=wanted, max_vcpus=max(limit, wanted), memory_mib=memory)
            here.conn.defineXML(xml.text(tree))

        return self._start("resize", here, work)

    def _resize_hot(
        self, here: Located, vcpus: int, had: int, limit: int, memory_mib: int, memory_had: int
    ) -> Operation[None]:
        if memory_mib != memory_had:
            # plugged memory cannot be relied on to come out again, and a balloon does not change what the VM was sold
            raise here.unsupported("resize.hot-memory", "resize", "memory is changed while the VM is stopped")
        if vcpus < had and not self._flavour.vcpu_unplug:
            why = "vCPUs cannot be unplugged: QEMU's guests do not let go of them"
            raise here.unsupported("resize.hot-vcpu", "resize", why)
        if vcpus > limit:
            why = f"the VM was started with room for {limit} vCPUs (max_vcpus)"
            raise here.unsupported("resize.hot-vcpu", "resize", why)
        if vcpus == had:
            return Completed(None)

        def work() -> None:
            here.dom.setVcpusFlags(vcpus, here.config_flags)

        return self._start("resize", here, work)

    def resize_disk(self, vm: str, serial: str, size_bytes: int) -> Operation[None]:
        here = self._locate(vm, "resize_disk")
        self._require(here, (PowerState.RUNNING, PowerState.PAUSED, *OFF), "resize_disk")
        with self._guard("resize_disk", here):
            element = xml.find_disk(here.tree(), serial=serial)
            if element is None:
                raise NotFound(f"no disk {serial!r}", operation="resize_disk", vm=vm, host=here.host)
            path, dev = xml.disk_path(element), xml.disk_dev(element)
            had = self._disk_bytes(here, path)
        if size_bytes < had or size_bytes % 512:
            raise InvalidRequest(
                f"disk {serial} has {had} bytes; {size_bytes} is less, or not a whole number of sectors",
                operation="resize_disk",
                vm=vm,
                host=here.host,
            )
        if size_bytes == had:
            return Completed(None)

        def work() -> None:
            if here.active:
                here.dom.blockResize(dev, size_bytes, lv.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
            else:
                storage.resize(here.conn, path, size_bytes)

        return self._start("resize_disk", here, work)
