"""The libvirt driver: all its parts together, and what it says of itself."""

from __future__ import annotations

import importlib.metadata
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import ClassVar

from conformance.driver import Driver
from conformance.lab.inventory import LabInventory, Target
from conformance.model import Capability, Declared, DiskState, Facts, NicState, PowerState, VmState
from drivers.libvirt import addresses, naming, options, storage, xml
from drivers.libvirt.base import Located, power_of
from drivers.libvirt.binding import load, lv
from drivers.libvirt.clone import CloneVm
from drivers.libvirt.connection import Hosts
from drivers.libvirt.devices import Devices
from drivers.libvirt.errors import translated
from drivers.libvirt.flavour import Flavour
from drivers.libvirt.kvm import KVM
from drivers.libvirt.migration import Migration
from drivers.libvirt.resize import Sizes
from drivers.libvirt.snapshots import SnapshotTree

CONSOLE_BYTES = 1 << 20

NEED_SHARED = (
    Capability.MIGRATE_LIVE,
    Capability.MIGRATE_PAUSED,
    Capability.MIGRATE_COLD,
    Capability.MIGRATE_POSTCOPY,
)
"""Capabilities that a lab without shared storage does not have."""


class LibvirtDriver(SnapshotTree, CloneVm, Sizes, Migration, Devices):
    """QEMU/KVM hosts through libvirt, one connection a host."""

    name: ClassVar[str] = "libvirt"
    option_names: ClassVar[frozenset[str]] = frozenset(options.Options.model_fields)
    options_kind: ClassVar[type[options.Options]] = options.Options

    @classmethod
    def flavour_for(cls, parsed: options.Options) -> Flavour:  # noqa: ARG003 - here there is only one
        """What a target with these options drives."""
        return KVM

    @classmethod
    def connect(cls, lab: LabInventory, target: Target) -> Driver:
        load()
        parsed = options.parse(target, cls.options_kind)
        hosts = Hosts(
            {name: parsed.uris[name] for name in target.hosts}, user=parsed.user, password_env=parsed.password_env
        )
        try:
            for name in hosts.names:
                hosts.get(name)
        except BaseException:
            hosts.close()
            raise
        return cls(lab, target, parsed, hosts, cls.flavour_for(parsed))

    def close(self) -> None:
        self._locks.when_idle(self._disconnect)

    def _disconnect(self) -> None:
        self._hosts.close()

    def hosts(self) -> Sequence[str]:
        return self._hosts.names

    def networks(self) -> Sequence[str]:
        return tuple(network.name for network in self._lab.networks)

    def facts(self) -> Facts:
        host = self._hosts.names[0]
        with translated(operation="facts", host=host):
            conn = self._hosts.get(host)
            kind = self._domain_type(conn)
            caps = ET.fromstring(conn.getCapabilities())
            return Facts(
                hypervisor=self._flavour.name,
                version=self._hypervisor_version(conn.getVersion()),
                driver=self.name,
                driver_version=importlib.metadata.version("hvconform"),
                accelerator=self._flavour.domain_types.get(kind, kind),
                hosts=self._hosts.names,
                details={
                    "libvirt": _version(conn.getLibVersion()),
                    "libvirt-client": _version(lv.getVersion()),
                    "machine": self._options.machine or self._flavour.machine,
                    "host-cpu": caps.findtext("host/cpu/model", ""),
                },
            )

    def _hypervisor_version(self, number: int) -> str:
        """As much of it as libvirt's number tells."""
        return ".".join(_version(number).split(".")[: self._flavour.version_parts])

    def capabilities(self) -> Mapping[Capability, Declared]:
        offered = dict(self._flavour.capabilities)
        hosts = [self._lab.host(name) for name in self._hosts.names]
        if len(hosts) < 2:
            offered = {key: value for key, value in offered.items() if not key.startswith("migrate.")}
        if not all(host.address6 for host in hosts):
            offered.pop(Capability.MIGRATE_IPV6, None)
        if not any(item.shared for item in self._lab.storages):
            for key in NEED_SHARED:
                offered.pop(key, None)
        if all(network.ipv6 is not None for network in self._lab.networks):
            offered[Capability.NETWORK_IPV6] = ("host", "router advertisements come from the network's peer")
        if any(network.mtu > 1500 for network in self._lab.networks):
            offered[Capability.NETWORK_JUMBO] = ("host", "on networks with a large MTU")
        if any(network.lease_file is not None for network in self._lab.networks):
            offered[Capability.NETWORK_DHCP] = ("host", "addresses come from the network's DHCP server")
        with translated(operation="capabilities", host=self._hosts.names[0]):
            if self._uefi_offered(self._hosts.get(self._hosts.names[0])):
                offered[Capability.FIRMWARE_UEFI] = ("image", "the image boots by UEFI")
        return {key: Declared(key, scope, note) for key, (scope, note) in offered.items()}

    # one VM

    def get(self, vm: str) -> VmState:
        here = self._locate(vm, "get")
        with self._guard("get", here):
            try:
                return self._describe(here)
            except lv.libvirtError as error:
                unanswered = error.get_error_code() in (lv.VIR_ERR_OPERATION_FAILED, lv.VIR_ERR_SYSTEM_ERROR)
                # QEMU may have died between two questions; once libvirt has seen that, it answers them without it
                if not (unanswered and here.has_died()):
                    raise
                return self._describe(here)

    def _describe(self, here: Located) -> VmState:
        power = power_of(here.dom)
        tree = here.tree()
        vcpu = tree.find("vcpu")
        assert vcpu is not None
        return VmState(
            id=here.vm,
            name=xml.record(tree, "name"),
            uuid=tree.findtext("uuid", "").lower(),
            power=power,
            host=here.host,
            vcpus=int(vcpu.get("current") or vcpu.text or 0),
            memory_mib=xml.memory_mib(tree),
            disks=tuple(self._disk_state(here, item) for item in xml.disks(tree)),
            nics=tuple(self._nic_state(item) for item in tree.findall("devices/interface")),
            snapshots=tuple(self._snapshot_ids(here)),
        )

    def _disk_state(self, here: Located, item: ET.Element) -> DiskState:
        path = xml.disk_path(item)
        volume = naming.parse_volume_file(path)
        return DiskState(
            serial=item.findtext("serial", ""),
            size_bytes=self._disk_bytes(here, path),
            volume=volume[0] if volume else "",
        )

    def _nic_state(self, item: ET.Element) -> NicState:
        mac, source, link = item.find("mac"), item.find("source"), item.find("link")
        address = "" if mac is None else mac.get("address", "").lower()
        bridge = "" if source is None else source.get("bridge", "")
        return NicState(
            id=address,
            mac=address,
            network=self._network_of(bridge),
            connected=link is None or link.get("state") != "down",
        )

    def addresses(self, vm: str) -> Sequence[str]:
        here = self._locate(vm, "addresses")
        self._require(here, (PowerState.RUNNING, PowerState.PAUSED), "addresses")
        with self._guard("addresses", here):
            if power_of(here.dom) is PowerState.RUNNING and self._agent_connected(here):
                found = _flat(addresses.by_mac(here.dom, lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT))
                if found:
                    return found
            return _flat(addresses.by_mac(here.dom, lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP))

    # Console

    def console_log(self, vm: str) -> bytes:
        here = self._locate(vm, "console_log")
        with self._guard("console_log", here):
            log = here.tree().find("devices/serial/log")
            if log is None:
                return b""
            try:
                return storage.read(here.conn, log.get("file", ""), last=CONSOLE_BYTES)
            except lv.libvirtError as error:
                if error.get_error_code() == lv.VIR_ERR_NO_STORAGE_VOL:
                    return b""  # it was never started
                raise


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _flat(known: Mapping[str, tuple[addresses.Address, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(one) for each in known.values() for one in each))
