"""Domain XML, built as a tree: no name or path is ever pasted into text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

from conformance.model import MIB
from drivers.libvirt.flavour import Flavour
from drivers.libvirt.naming import METADATA_URI, libvirt_name

ET.register_namespace("hvconform", METADATA_URI)

ANTI_SPOOF_FILTER = "hvconform-anti-spoof"
DIMM_MIB = 128
"""Memory is plugged in multiples of this: the size of a memory block of Linux on x86."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk in domain XML."""

    path: str
    serial: str
    cache: str


@dataclass(frozen=True, slots=True)
class Nic:
    """A NIC in domain XML."""

    mac: str
    bridge: str
    mtu: int = 1500
    anti_spoof: bool = False
    connected: bool = True


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel that the hypervisor loads itself. Paths are the host's."""

    kernel: str
    initrd: str
    cmdline: str


@dataclass(frozen=True, slots=True)
class Domain:
    """All that a new domain's XML is made from. `max_vcpus` 0 means no room above `vcpus`."""

    name: str
    uuid: str
    type: str
    machine: str
    vcpus: int
    memory_mib: int
    console_path: str
    storage: str
    image: str
    max_vcpus: int = 0
    direct: DirectBoot | None = None
    uefi: bool = False
    nvram_path: str = ""
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()


def child(parent: ET.Element, tag: str, text: str | None = None, **attributes: object) -> ET.Element:
    """Add an element under `parent`."""
    element = ET.SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})
    element.text = text
    return element


def text(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode")


def domain(spec: Domain, flavour: Flavour) -> ET.Element:
    """The XML of a new domain."""
    root = ET.Element("domain", {"type": spec.type})
    child(root, "name", libvirt_name(spec.name))
    child(root, "uuid", spec.uuid)
    child(root, "title", spec.name)
    record = child(child(root, "metadata"), f"{{{METADATA_URI}}}vm")
    # the name is kept apart from libvirt's: a domain whose record is missing or another's is never ours
    for tag, value in (("name", spec.name), ("storage", spec.storage), ("image", spec.image)):
        child(record, f"{{{METADATA_URI}}}{tag}", value)
    set_size(root, vcpus=spec.vcpus, max_vcpus=max(spec.max_vcpus, spec.vcpus), memory_mib=spec.memory_mib)
    _boot(root, spec, flavour)
    features = child(root, "features")
    for name in flavour.features:
        child(features, name)
    # a vCPU that is plugged in needs a free region of the cache; when a small one is full, QEMU 7.2 aborts
    # (tcg_region_initial_alloc__locked), so a VM with room for vCPUs has the cache of QEMU's own size
    bounded = flavour.domain_types[spec.type] == "tcg" and spec.max_vcpus <= spec.vcpus
    if bounded and flavour.emulated_cache_mib:
        child(child(features, "tcg"), "tb-cache", str(flavour.emulated_cache_mib), unit="MiB")
    clock = child(root, "clock", offset="utc")
    for name, mode in flavour.timers.items():
        child(clock, "timer", name=name, mode=mode)
    child(root, "on_poweroff", "destroy")
    child(root, "on_reboot", "restart")
    child(root, "on_crash", "preserve" if flavour.panic_model else "destroy")
    devices = child(root, "devices")
    if not flavour.usb:
        child(devices, "controller", type="usb", model="none")
    if spec.machine.startswith(("q35", "pc-q35")):
        # every device that is plugged while the VM runs needs an empty root port of its own
        child(devices, "controller", type="pci", index=0, model="pcie-root")
        for _ in range(12):
            child(devices, "controller", type="pci", model="pcie-root-port")
    for index, item in enumerate(spec.disks):
        devices.append(disk(item, target(flavour, index), flavour))
    for nic in spec.nics:
        devices.append(interface(nic, flavour))
    if flavour.serial:
        serial = child(devices, "serial", type="pty")
        if flavour.serial_log:
            child(serial, "log", file=spec.console_path, append="on")
        child(serial, "target", port=0)
    for kind in flavour.consoles:
        child(child(devices, "console", type="pty"), "target", type=kind, port=0)
    if flavour.agent_channel:
        child(child(devices, "channel", type="unix"), "target", type="virtio", name="org.qemu.guest_agent.0")
    child(devices, "memballoon", model=flavour.balloon_model)
    if flavour.panic_model:
        child(devices, "panic", model=flavour.panic_model)
    return root


def _boot(root: ET.Element, spec: Domain, flavour: Flavour) -> None:
    os = ET.SubElement(root, "os", {"firmware": "efi"} if spec.uefi else {})
    child(os, "type", flavour.os_type, arch="x86_64", **({"machine": spec.machine} if spec.machine else {}))
    if spec.uefi:
        child(child(os, "firmware"), "feature", enabled="no", name="secure-boot")
        # beside the disks, so that it is there wherever the VM is moved to
        child(os, "nvram", spec.nvram_path)
    if spec.direct is not None:
        child(os, "kernel", spec.direct.kernel)
        child(os, "initrd", spec.direct.initrd)
        child(os, "cmdline", spec.direct.cmdline)
    else:
        child(os, "boot", dev="hd")


def set_size(root: ET.Element, *, vcpus: int, max_vcpus: int, memory_mib: int) -> None:
    """Write vCPU counts and memory, in place of what is there; memory plugged earlier becomes plain memory."""
    for tag in ("memory", "currentMemory", "vcpu", "vcpus", "maxMemory"):
        for old in root.findall(tag):
            root.remove(old)
    for old in root.findall("cpu/numa"):
        root.find("cpu").remove(old)  # type: ignore[union-attr]
    child(root, "memory", str(memory_mib), unit="MiB")
    child(root, "currentMemory", str(memory_mib), unit="MiB")
    child(root, "vcpu", str(max_vcpus), placement="static", current=vcpus)


def disk(item: Disk, dev: str, flavour: Flavour) -> ET.Element:
    """The XML of one disk. The format is always stated: probing it would let a guest choose it."""
    root = ET.Element("disk", {"type": "file", "device": "disk"})
    tuning = {"cache": item.cache, "discard": "unmap"} if flavour.disk_tuning else {}
    child(root, "driver", name="qemu", type="qcow2", **tuning)
    child(root, "source", file=item.path)
    child(root, "target", dev=dev, bus=flavour.boot_bus if dev == flavour.boot_dev else flavour.disk_bus)
    child(root, "serial", item.serial)
    return root


def interface(nic: Nic, flavour: Flavour) -> ET.Element:
    """The XML of one NIC on a bridge."""
    root = ET.Element("interface", {"type": "bridge"})
    child(root, "mac", address=nic.mac)
    child(root, "source", bridge=nic.bridge)
    if flavour.nic_model:
        child(root, "model", type=flavour.nic_model)
    if nic.mtu != 1500:
        child(root, "mtu", size=nic.mtu)
    if nic.anti_spoof:
        child(child(root, "filterref", filter=ANTI_SPOOF_FILTER), "parameter", name="CTRL_IP_LEARNING", value="any")
    if not nic.connected:
        child(root, "link", state="down")
    if not flavour.nic_rom:
        child(root, "rom", enabled="no")
    return root


def target(flavour: Flavour, index: int) -> str:
    """Device name of the disk with this index, from 0: vda to vdz, vdaa..."""
    if index == 0 and flavour.boot_dev:
        return flavour.boot_dev
    name = ""
    index += flavour.second_disk if index else 1
    while index:
        index, rest = divmod(index - 1, 26)
        name = chr(ord("a") + rest) + name
    return flavour.disk_prefix + name


def free_target(root: ET.Element, flavour: Flavour) -> str:
    """The first device name that no disk of this domain has."""
    taken = {element.get("dev") for element in root.findall("devices/disk/target")}
    return next(name for index in range(len(taken) + 1) if (name := target(flavour, index)) not in taken)


def disks(root: ET.Element) -> Iterable[ET.Element]:
    return [element for element in root.findall("devices/disk") if element.get("device") == "disk"]


def disk_path(element: ET.Element) -> str:
    source = element.find("source")
    return "" if source is None else source.get("file", "")


def disk_dev(element: ET.Element) -> str:
    return element.find("target").get("dev", "")  # type: ignore[union-attr]


def find_disk(root: ET.Element, *, serial: str = "", path: str = "") -> ET.Element | None:
    """The disk with this serial, or with this file."""
    for element in disks(root):
        if (serial and element.findtext("serial") == serial) or (path and disk_path(element) == path):
            return element
    return None


def find_interface(root: ET.Element, mac: str) -> ET.Element | None:
    for element in root.findall("devices/interface"):
        address = element.find("mac")
        if address is not None and address.get("address", "").lower() == mac:
            return element
    return None


def memory_mib(root: ET.Element) -> int:
    """The memory of a domain, plugged memory included."""
    element = root.find("memory")
    unit = {"b": 1, "bytes": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}
    if element is None or not element.text:
        return 0
    return int(element.text) * unit[element.get("unit", "KiB")] // MIB


def record(root: ET.Element, tag: str) -> str:
    """A value of our record in the domain's metadata; empty when there is none."""
    return root.findtext(f"metadata/{{{METADATA_URI}}}vm/{{{METADATA_URI}}}{tag}", "")
