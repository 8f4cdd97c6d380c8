"""What differs between hypervisors that libvirt drives, as data: `kvm` fills it in, another hypervisor can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from conformance.model import Capability


@dataclass(frozen=True, slots=True)
class Flavour:
    """One hypervisor behind libvirt.

    Args:
        name: The hypervisor's name in facts.
        domain_types: libvirt's domain types in order of preference, with what runs the vCPUs in each.
        machine: The machine type unless the target's options say otherwise; empty leaves it to libvirt.
        disk_bus: Bus of the disks.
        disk_prefix: What device names of that bus begin with.
        nic_model: Model of the NICs; empty leaves it to libvirt.
        nic_rom: Whether NICs keep their boot ROM, which costs time at each boot.
        shutdown_flags: Names of the flags of `virDomainShutdownFlags` that ask the guest.
        agent_channel: Whether the guest agent's channel is made.
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
    agent_channel: bool
    panic_model: str
    direct_kernel_args: str
    emulated_cache_mib: int
    capabilities: Mapping[Capability, tuple[str, str]] = field(default_factory=dict)
