"""The lab kind of a user's own Hyper-V hosts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import ClassVar

from conformance.lab.inventory import LabInventory
from conformance.lab.lab import LabKind, Observers


class HypervHostsLab(LabKind):
    """Hosts of a user's own, described in a lab file; we bring nothing up and take nothing down."""

    kind: ClassVar[str] = "hyperv"

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        # here, so that a machine without the client library still has the other kinds of labs
        from labs.hyperv_hosts.observers import HypervObservers

        return HypervObservers(inventory)

    @classmethod
    def missing(cls) -> Sequence[tuple[str, str]]:
        return [] if find_spec("pypsrp") else [("pypsrp", "pip install 'hvconform[hyperv]'")]
