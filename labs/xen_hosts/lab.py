"""The lab kind of a user's own hosts that run Xen."""

from __future__ import annotations

from typing import ClassVar

from conformance.lab.inventory import LabInventory
from conformance.lab.lab import LabKind, Observers
from labs.xen_hosts.observers import XenObservers


class XenHostsLab(LabKind):
    """Hosts of a user's own, described in a lab file; we bring nothing up and take nothing down."""

    kind: ClassVar[str] = "xen-hosts"

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        return XenObservers(inventory)
