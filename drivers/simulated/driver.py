"""The whole driver: the core, all facets, and what it declares."""

from __future__ import annotations

from collections.abc import Mapping

from conformance.lab.inventory import LabInventory, Target
from conformance.model import Capability, Declared, Facts
from drivers.simulated.facets import DeviceFacets, MigrationFacets, PowerFacets, SizeFacets, SnapshotFacets

DECLARED = (
    Capability.FIRMWARE_UEFI,
    Capability.PAUSE,
    Capability.SUSPEND,
    Capability.SNAPSHOT_DISK,
    Capability.SNAPSHOT_MEMORY,
    Capability.SNAPSHOT_QUIESCE,
    Capability.CLONE,
    Capability.RESIZE_COLD,
    Capability.RESIZE_HOT_VCPU,
    Capability.RESIZE_REVERT,
    Capability.RESIZE_DISK,
    Capability.RESIZE_DISK_ONLINE,
    Capability.VOLUME_HOTPLUG,
    Capability.MIGRATE_LIVE,
    Capability.MIGRATE_LIVE_STORAGE,
    Capability.MIGRATE_PAUSED,
    Capability.MIGRATE_COLD,
    Capability.MIGRATE_ABORT,
    Capability.MIGRATE_IPV6,
    Capability.NIC_HOTPLUG,
    Capability.NIC_LINK_STATE,
    Capability.NETWORK_ISOLATION,
    Capability.NETWORK_IPV6,
    Capability.NETWORK_DHCP,
    Capability.ANTI_SPOOF,
    Capability.CONSOLE_LOG,
)
"""Left out on purpose, and refused: excluding disks from snapshots, hot memory, post-copy."""


class SimulatedDriver(PowerFacets, SnapshotFacets, SizeFacets, MigrationFacets, DeviceFacets):
    """The driver of the simulated world."""

    @classmethod
    def connect(cls, lab: LabInventory, target: Target) -> SimulatedDriver:
        return cls(lab, target)

    def facts(self) -> Facts:
        return Facts(
            hypervisor="simulated world",
            version="1",
            driver=self.name,
            driver_version="1",
            accelerator="none",
            hosts=tuple(self.target.hosts),
        )

    def capabilities(self) -> Mapping[Capability, Declared]:
        return {capability: Declared(capability) for capability in DECLARED}
