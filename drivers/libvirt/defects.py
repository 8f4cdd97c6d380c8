"""Seeded defects that need libvirt's own hands: what no wrapper round an interface could do to a real host."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from conformance.driver import LIVE, Driver, Operation, Running
from conformance.model import MigrateOptions
from drivers.libvirt.base import Base, Located
from drivers.libvirt.errors import translated
from drivers.wrapping import Defect, Wrapper, dress


class SourceGoesOn(Wrapper):
    """After a migration the source runs the VM as well: same identity, same MAC, a process of its own."""

    inner: Base

    def migrate(self, vm: str, host: str, options: MigrateOptions = LIVE) -> Operation[None]:
        source = self.inner._locate(vm, "migrate")
        tree = source.tree()
        migrating: Operation[None] = self.inner.migrate(vm, host, options)  # type: ignore[attr-defined]

        def work() -> None:
            migrating.wait()
            with translated(operation="migrate", vm=vm, host=source.host):
                self._go_on(source, tree)

        return Running(work, operation="migrate", vm=vm, progress=migrating.progress, abort=migrating.abort)

    def _go_on(self, source: Located, tree: ET.Element) -> None:
        devices = tree.find("devices")
        assert devices is not None
        for disk in devices.findall("disk"):  # QEMU does not open what the target's QEMU has locked
            devices.remove(disk)
        source.conn.createXML(ET.tostring(tree, encoding="unicode"), 0)


def _plant(driver: Driver) -> Driver:
    return dress(SourceGoesOn, driver)


DEFECTS = (
    Defect(
        "libvirt-source-goes-on",
        "nova LP#1905944, OpenNebula/one#3582",
        "After a live migration the VM runs on the source as well",
        ("mig.never-two",),
        "host",
        _plant,
        only="libvirt",
    ),
)
