"""The values that cross the driver interface: frozen, in the field's terms, with units in their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1024 * 1024


class PowerState(StrEnum):
    """What a driver says a VM is doing. `TRANSIENT` covers every state a VM passes through by itself."""

    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    SUSPENDED = "suspended"  # RAM on disk, no process
    CRASHED = "crashed"
    TRANSIENT = "transient"
    UNKNOWN = "unknown"  # the host does not answer


class RebootMode(StrEnum):
    SOFT = "soft"  # the guest is asked
    HARD = "hard"  # the machine is reset


class StopMode(StrEnum):
    GRACEFUL = "graceful"  # the guest is asked
    FORCE = "force"  # the power is cut


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class Evidence(StrEnum):
    """What kind of system a result was obtained on, from strongest to weakest. Never added up together."""

    HARDWARE = "hardware"
    NESTED = "nested"
    VENDOR_SIMULATOR = "vendor-simulator"
    OWN_DOUBLE = "own-double"
    SIMULATED = "simulated"


class Capability(StrEnum):
    """What a driver may declare. Finer than a facet: the facet says how it is called, this says what it can do."""

    FIRMWARE_UEFI = "firmware.uefi"
    SECURE_BOOT = "firmware.secure-boot"
    VTPM = "firmware.vtpm"
    AUTOSTART = "power.autostart"
    PAUSE = "pause"
    SUSPEND = "suspend"
    SNAPSHOT_DISK = "snapshot.disk"
    SNAPSHOT_MEMORY = "snapshot.memory"
    SNAPSHOT_QUIESCE = "snapshot.quiesce"
    SNAPSHOT_EXCLUDE_DISK = "snapshot.exclude-disk"
    CLONE = "clone"
    EXPORT = "export"
    IMAGE_CAPTURE = "image.capture"
    RESIZE_COLD = "resize.cold"
    RESIZE_HOT_VCPU = "resize.hot-vcpu"
    RESIZE_HOT_MEMORY = "resize.hot-memory"
    RESIZE_REVERT = "resize.revert"
    RESIZE_DISK = "resize.disk"
    RESIZE_DISK_ONLINE = "resize.disk-online"
    BALLOON = "balloon"
    VOLUME_HOTPLUG = "volume.hotplug"
    VOLUME_MULTIATTACH = "volume.multiattach"
    VOLUME_READONLY = "volume.readonly"
    VOLUME_LIMITS = "volume.limits"
    CD_CHANGE = "cd.change"
    MIGRATE_LIVE = "migrate.live"
    MIGRATE_LIVE_STORAGE = "migrate.live-storage"
    MIGRATE_PAUSED = "migrate.paused"
    MIGRATE_COLD = "migrate.cold"
    MIGRATE_POSTCOPY = "migrate.postcopy"
    MIGRATE_ABORT = "migrate.abort"
    MIGRATE_IPV6 = "migrate.ipv6"
    EVACUATE = "evacuate"
    NIC_HOTPLUG = "nic.hotplug"
    NIC_LINK_STATE = "nic.link-state"
    NIC_MULTIQUEUE = "nic.multiqueue"
    NETWORK_ISOLATION = "network.isolation"
    NETWORK_VLAN_TRUNK = "network.vlan-trunk"
    NETWORK_JUMBO = "network.jumbo"
    NETWORK_IPV6 = "network.ipv6"
    NETWORK_DHCP = "network.dhcp"
    ANTI_SPOOF = "port-security.anti-spoof"
    SECURITY_GROUPS = "port-security.groups"
    METADATA = "metadata"
    AGENT = "agent"
    CONSOLE_LOG = "console.log"
    CONSOLE_INTERACTIVE = "console.interactive"
    SCREENSHOT = "screenshot"
    EVENTS = "events"
    QUOTA = "quota"
    AFFINITY = "affinity"
    MAINTENANCE = "host.maintenance"


@dataclass(frozen=True, slots=True)
class Declared:
    """One capability as a target declares it.

    `scope` says where it holds: ``"driver"``, ``"host"``, ``"image"`` or ``"state"``; `note` says what it needs, such
    as "both hosts mount the storage at one path".
    """

    capability: Capability
    scope: str = "driver"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a target says of itself, read from it and never typed in by hand.

    `accelerator` is what runs the guests' vCPUs, such as ``"kvm"`` or ``"tcg"``; `details` is free-form. `double` names
    what stands in for the hypervisor where it says so itself; a run that claims more than that is refused.
    """

    hypervisor: str
    version: str
    driver: str
    driver_version: str
    accelerator: str = ""
    hosts: tuple[str, ...] = ()
    double: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at on a target's hosts. `how` is the way out where it is not `ok`.

    `needed` is False where only some capability is missing without it.
    """

    what: str
    ok: bool
    how: str = ""
    needed: bool = True


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk made with the VM, owned by it and deleted with it. `serial` is what the guest shows (up to 20 ASCII)."""

    size_bytes: int
    serial: str


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A NIC on a lab network. `mac` is lower-case with colons. `anti_spoof` drops frames with a foreign source."""

    network: str
    mac: str
    anti_spoof: bool = False


@dataclass(frozen=True, slots=True)
class VmSpec:
    """What a VM is to be.

    `name` is unique within the run and carries the run's tag. `disks` are in addition to the root disk, which is made
    from `image` (a name of the lab's image catalogue), has `root_disk_bytes` (0: the image's own size) and shows the
    serial ``"root"``. `host` and `storage` are lab names; empty means that the driver chooses.
    """

    name: str
    image: str
    vcpus: int = 1
    memory_mib: int = 128
    nics: tuple[NicSpec, ...] = ()
    disks: tuple[DiskSpec, ...] = ()
    root_disk_bytes: int = 0
    host: str = ""
    storage: str = ""
    firmware: Firmware | None = None
    max_vcpus: int = 0
    max_memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class DiskState:
    """A disk of a VM as the driver reports it. `volume` names the volume if it is one with a life of its own."""

    serial: str
    size_bytes: int
    volume: str = ""


@dataclass(frozen=True, slots=True)
class NicState:
    """A NIC of a VM as the driver reports it. `id` is the driver's own handle for it."""

    id: str
    mac: str
    network: str
    connected: bool = True


@dataclass(frozen=True, slots=True)
class VmState:
    """Everything a driver claims about one VM at one moment. `uuid` is what the guest must find in its SMBIOS."""

    id: str
    name: str
    uuid: str
    power: PowerState
    host: str
    vcpus: int
    memory_mib: int
    disks: tuple[DiskState, ...] = ()
    nics: tuple[NicState, ...] = ()
    snapshots: tuple[str, ...] = ()

    def disk(self, serial: str) -> DiskState:
        """The disk with this serial; raises `KeyError` when there is none."""
        for disk in self.disks:
            if disk.serial == serial:
                return disk
        raise KeyError(serial)


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """A snapshot as the driver reports it. `parent` is the snapshot it was made on top of, if any."""

    id: str
    name: str
    parent: str | None
    memory: bool


@dataclass(frozen=True, slots=True)
class VolumeState:
    """A volume with a life of its own. `attached_to` holds VM ids."""

    id: str
    name: str
    size_bytes: int
    attached_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is. `fraction` is 0.0 to 1.0 and never goes back; `phase` is in the hypervisor's words."""

    fraction: float
    phase: str


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """How to migrate.

    `copy_storage` moves the disks too, to `target_storage`; `uri_family` is 4 or 6 for the transport;
    `bandwidth_mib_s` 0 means no limit.
    """

    live: bool = True
    copy_storage: bool = False
    postcopy: bool = False
    uri_family: int = 4
    bandwidth_mib_s: int = 0
    target_storage: str = ""
