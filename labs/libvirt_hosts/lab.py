"""The lab kind of a user's own hosts that run libvirt with QEMU."""

from __future__ import annotations

from typing import ClassVar

from conformance.lab.inventory import LabInventory
from conformance.lab.lab import LabKind, Observers
from labs.libvirt_hosts.observers import LibvirtObservers


class LibvirtHostsLab(LabKind):
    """Hosts of a user's own, described in a lab file; we bring nothing up and take nothing down."""

    kind: ClassVar[str] = "libvirt"

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        return LibvirtObservers(inventory)
