"""QEMU, with KVM where the host offers it and with TCG where it does not."""

from __future__ import annotations

from conformance.model import Capability
from drivers.libvirt.flavour import Flavour

SHARED = "the disks lie on storage that the lab file calls shared"

KVM = Flavour(
    name="QEMU",
    domain_types={"kvm": "kvm", "qemu": "tcg"},
    machine="q35",
    disk_bus="virtio",
    disk_prefix="vd",
    nic_model="virtio",
    nic_rom=False,
    # the power button only: libvirt's default asks the guest agent as well, and two requests are one too many
    shutdown_flags=("VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN",),
    ask_again=True,
    undefine_flags=(
        "VIR_DOMAIN_UNDEFINE_MANAGED_SAVE",
        "VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA",
        "VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA",
        "VIR_DOMAIN_UNDEFINE_NVRAM",
    ),
    migrate_flags=(
        "VIR_MIGRATE_LIVE",
        "VIR_MIGRATE_PERSIST_DEST",
        "VIR_MIGRATE_UNDEFINE_SOURCE",
        "VIR_MIGRATE_ABORT_ON_ERROR",
    ),
    panic_model="isa",
    direct_kernel_args="console=ttyS0",
    emulated_cache_mib=32,
    capabilities={
        Capability.PAUSE: ("driver", ""),
        Capability.SUSPEND: ("driver", "the state file lies on the host; the VM cannot move until it is started"),
        Capability.SNAPSHOT_DISK: ("image", "BIOS and direct boot; libvirt 9 refuses internal snapshots with UEFI"),
        Capability.SNAPSHOT_MEMORY: ("image", "of a running or paused VM; BIOS and direct boot"),
        Capability.SNAPSHOT_QUIESCE: ("state", "the guest agent answers"),
        Capability.CLONE: ("state", "of a stopped VM"),
        Capability.RESIZE_COLD: ("state", "of a stopped VM"),
        Capability.RESIZE_HOT_VCPU: ("state", "up to max_vcpus, never down"),
        Capability.RESIZE_DISK: ("driver", ""),
        Capability.RESIZE_DISK_ONLINE: ("driver", ""),
        Capability.VOLUME_HOTPLUG: ("driver", ""),
        Capability.MIGRATE_LIVE: ("host", SHARED),
        Capability.MIGRATE_LIVE_STORAGE: ("state", "the VM has no snapshots"),
        Capability.MIGRATE_PAUSED: ("host", SHARED),
        Capability.MIGRATE_COLD: ("host", SHARED),
        Capability.MIGRATE_POSTCOPY: ("host", SHARED),
        Capability.MIGRATE_ABORT: ("state", "until a post-copy migration has switched over"),
        Capability.MIGRATE_IPV6: ("host", "the lab file gives the hosts IPv6 addresses"),
        Capability.NIC_HOTPLUG: ("driver", ""),
        Capability.NIC_LINK_STATE: ("driver", ""),
        Capability.NETWORK_ISOLATION: ("host", "one bridge a network"),
        Capability.ANTI_SPOOF: ("driver", "MAC, ARP and IPv4 sources; of IPv6 the MAC only"),
        Capability.CONSOLE_LOG: ("driver", ""),
        Capability.AGENT: ("image", "the QEMU guest agent runs in the guest"),
    },
)
