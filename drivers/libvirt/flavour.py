"""What differs between hypervisors that libvirt drives, as data: `kvm` fills it in, another hypervisor can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from conformance.model import Capability
from drivers.libvirt.binding import lv


@dataclass(frozen=True, slots=True)
class Flavour:
    """One hypervisor behind libvirt.

    Args:
        name: The hypervisor's name in facts.
        version_parts: How many parts of its version libvirt tells; the rest of three is zeros.
        os_type: libvirt's type of operating system: how the guest is entered.
        domain_types: libvirt's domain types in order of preference, with what runs the vCPUs in each.
        machine: The machine type unless the target's options say otherwise; empty leaves it to libvirt.
        direct_only: Whether guests can only be booted from a kernel that the hypervisor loads itself.
        bzimage: Whether a kernel that the hypervisor loads itself has to be a bzImage.
        features: Features of the machine that are stated.
        timers: libvirt's timers by name, with their mode.
        disk_bus: Bus of the disks.
        disk_prefix: What device names of that bus begin with.
        boot_bus: Bus of the first disk, where it is another.
        boot_dev: Name of that disk then.
        second_disk: Letter of the second disk's name, counted from 0: 1 is b. Those after it follow.
        disk_tuning: Whether a disk's cache mode and discarding can be chosen.
        nic_model: Model of the NICs; empty leaves it to libvirt.
        nic_rom: Whether NICs keep their boot ROM, which costs time at each boot.
        balloon_model: Model of the memory balloon.
        usb: Whether the machine may keep a USB controller that nobody asked for.
        serial: Whether the machine has a serial port.
        serial_log: Whether what comes out of it can be logged to a file of ours.
        consoles: Kinds of paravirtual consoles.
        shutdown_flags: Names of the flags of `virDomainShutdownFlags` that ask the guest.
        ask_again: Whether that may go unheard without an error, so that it has to be done again.
        undefine_flags: Names of the flags of `virDomainUndefineFlagsValues` that it knows.
        migrate_flags: Names of the flags of `virDomainMigrateFlags` for a live migration.
        agent_channel: Whether the guest agent's channel is made.
        block_info: Whether libvirt asks the hypervisor for a disk's size; else the file is asked.
        snapshots: Whether libvirt knows snapshots of it.
        job_progress: Whether libvirt tells how far a migration is.
        offline_migration: Whether libvirt moves a definition; else it is made there and removed here.
        vcpu_unplug: Whether guests let go of vCPUs.
        max_vcpus: Most vCPUs of a VM; 0 asks the host.
        panic_model: Model of the device by which a guest reports a panic; empty for none.
        direct_kernel_args: What is put before an image's own kernel command line.
        emulated_cache_mib: Size of the translation cache where the CPU is emulated; 0 leaves it to the hypervisor.
        capabilities: What is offered, each with its scope and note.
    """

    name: str
    domain_types: Mapping[str, str]
    machine: str
    disk_bus: str
    disk_prefix: str
    nic_model: str
    nic_rom: bool
    shutdown_flags: tuple[str, ...]
    ask_again: bool
    undefine_flags: tuple[str, ...]
    migrate_flags: tuple[str, ...]
    panic_model: str
    direct_kernel_args: str
    emulated_cache_mib: int
    version_parts: int = 3
    boot_bus: str = ""
    boot_dev: str = ""
    second_disk: int = 1
    os_type: str = "hvm"
    direct_only: bool = False
    bzimage: bool = False
    features: tuple[str, ...] = ("acpi", "apic")
    timers: Mapping[str, str] = field(default_factory=dict)
    disk_tuning: bool = True
    balloon_model: str = "virtio"
    usb: bool = False
    serial: bool = True
    serial_log: bool = True
    consoles: tuple[str, ...] = ()
    agent_channel: bool = True
    block_info: bool = True
    snapshots: bool = True
    job_progress: bool = True
    offline_migration: bool = True
    vcpu_unplug: bool = False
    max_vcpus: int = 0
    capabilities: Mapping[Capability, tuple[str, str]] = field(default_factory=dict)

    def flags(self, names: tuple[str, ...]) -> int:
        """libvirt's flags of these names as a number."""
        flags = 0
        for name in names:
            flags |= getattr(lv, name)
        return flags
