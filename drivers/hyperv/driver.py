"""The Hyper-V driver: all its parts together, and what it says of itself."""

from __future__ import annotations

import importlib.metadata
import uuid
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import ClassVar

from conformance.lab.inventory import LabInventory, Target
from conformance.model import Capability, Declared, DiskState, Facts, NicState, PowerState, VmState
from drivers.hyperv import naming, options
from drivers.hyperv.base import Located, Row
from drivers.hyperv.checkpoints import Checkpoints
from drivers.hyperv.clone import CloneVm
from drivers.hyperv.diagnosis import Diagnose
from drivers.hyperv.hosts import Hosts
from drivers.hyperv.nics import FIELDS
from drivers.hyperv.resize import Sizes
from drivers.hyperv.transport import Command, open_transport
from drivers.hyperv.volumes import VolumeStore

OFFERED: Mapping[Capability, tuple[str, str]] = {
    Capability.FIRMWARE_UEFI: ("image", "generation 2"),
    Capability.PAUSE: ("driver", ""),
    Capability.SUSPEND: ("driver", "Save-VM"),
    Capability.SNAPSHOT_DISK: ("driver", "production checkpoints"),
    Capability.SNAPSHOT_MEMORY: ("driver", "standard checkpoints"),
    Capability.SNAPSHOT_QUIESCE: ("image", "production-only checkpoints; the guest needs hv_vss_daemon or VSS"),
    Capability.CLONE: ("state", "of a VM that is off"),
    Capability.RESIZE_COLD: ("driver", ""),
    Capability.RESIZE_DISK: ("driver", "VHDX without checkpoints"),
    Capability.RESIZE_DISK_ONLINE: ("driver", "disks on SCSI"),
    Capability.VOLUME_HOTPLUG: ("driver", "SCSI"),
    Capability.NIC_HOTPLUG: ("image", "generation 2"),
    Capability.NIC_LINK_STATE: ("driver", "connected to its switch or not"),
    Capability.AGENT: ("image", "addresses, by hv_kvp_daemon or else the host's neighbour table"),
    Capability.CONSOLE_LOG: ("driver", "the first serial port, read on the host"),
    Capability.NETWORK_ISOLATION: ("host", "switches or access VLANs"),
}

MIGRATIONS: Mapping[Capability, tuple[str, str]] = {
    Capability.MIGRATE_LIVE: ("host", "shared storage: SMB, or the hosts' cluster volumes"),
    Capability.MIGRATE_LIVE_STORAGE: ("host", "shared nothing"),
    Capability.MIGRATE_PAUSED: ("host", ""),
    Capability.MIGRATE_COLD: ("host", ""),
    Capability.MIGRATE_ABORT: ("host", ""),
}


DOUBLE = "hvconform"
"""Manufacturer of the hosts of our own double, which says so of itself."""


class HypervDriver(Checkpoints, CloneVm, Sizes, Diagnose, VolumeStore):
    """Hyper-V hosts through the Hyper-V PowerShell module."""

    name: ClassVar[str] = "hyperv"
    option_names: ClassVar[frozenset[str]] = frozenset(options.Options.model_fields)

    @classmethod
    def connect(cls, lab: LabInventory, target: Target) -> HypervDriver:
        parsed = options.parse(target)
        secret = options.secret(parsed)
        hosts = Hosts(
            {name: open_transport(name, parsed, secret) for name in target.hosts},
            {name: open_transport(name, parsed, secret) for name in target.hosts},
            deadline_s=parsed.call_seconds,
        )
        made = cls(lab, target, parsed, hosts)
        try:
            for name in target.hosts:
                with made._about("connect", None, name):
                    made._ask(name, Command("Get-VMHost"), select=("Name",))
        except BaseException:
            hosts.close()
            raise
        return made

    def close(self) -> None:
        self._under_way.when_idle(self._hosts.close)

    def hosts(self) -> Sequence[str]:
        return self._hosts.names

    def networks(self) -> Sequence[str]:
        return tuple(network.name for network in self._lab.networks)

    def facts(self) -> Facts:
        host = self._hosts.names[0]
        with self._about("facts", None, host):
            (system,) = self._ask(
                host,
                Command("Get-CimInstance", {"ClassName": "Win32_OperatingSystem"}),
                select=("Caption", "Version", "BuildNumber"),
            )
            (machine,) = self._ask(
                host,
                Command("Get-CimInstance", {"ClassName": "Win32_ComputerSystem"}),
                select=("Manufacturer", "Model"),
            )
            versions = self._ask(host, Command("Get-VMHostSupportedVersion", {"Default": True}), select=("Version",))
        details = {
            "windows": f"{system['Caption']}",
            "machine": f"{machine['Manufacturer']} {machine['Model']}",
            "configuration": str(versions[0]["Version"]) if versions else "",
        }
        return Facts(
            hypervisor="Hyper-V",
            version=str(system["Version"]),
            driver=self.name,
            driver_version=importlib.metadata.version("hvconform"),
            accelerator="hyper-v",
            hosts=self._hosts.names,
            double=details["machine"] if machine["Manufacturer"] == DOUBLE else "",
            details=details,
        )

    def capabilities(self) -> Mapping[Capability, Declared]:
        offered = dict(OFFERED)
        if not self._hindrance():
            offered |= MIGRATIONS
            if not any(storage.shared for storage in self._lab.storages):
                offered.pop(Capability.MIGRATE_LIVE)
        if self._options.guard == "mac":
            offered[Capability.ANTI_SPOOF] = ("driver", "of MACs, DHCP and routers; not of IP addresses")
        if all(network.ipv6 is not None for network in self._lab.networks):
            offered[Capability.NETWORK_IPV6] = ("host", "router advertisements come from the network's peer")
        if any(network.mtu > 1500 for network in self._lab.networks):
            offered[Capability.NETWORK_JUMBO] = ("host", "on networks with a large MTU")
        if any(network.lease_file is not None or network.gateway4 for network in self._lab.networks):
            offered[Capability.NETWORK_DHCP] = ("host", "addresses come from the network's DHCP server")
        return {key: Declared(key, scope, note) for key, (scope, note) in offered.items()}

    # one VM

    def get(self, vm: str) -> VmState:
        here = self._locate(vm, "get")
        drives = self._vm_ask(here, "get", Command("Get-VMHardDiskDrive"), Command("Get-VHD"), select=("Path", "Size"))
        adapters = self._vm_ask(here, "get", Command("Get-VMNetworkAdapter"), select=FIELDS)
        return VmState(
            id=here.vm,
            name=here.name,
            uuid=self._smbios_uuid(here),
            power=here.power,
            host=here.host,
            vcpus=int(here.row["ProcessorCount"]),
            memory_mib=int(here.row["MemoryStartup"]) >> 20,
            disks=tuple(self._disk_state(row) for row in drives),
            nics=tuple(self._nic_state(row) for row in adapters),
            snapshots=tuple(str(row["Id"]) for row in self._checkpoints(here)),
        )

    def _smbios_uuid(self, here: Located) -> str:
        """What the guest finds in its SMBIOS, which is not the VM's id."""

        def ask() -> uuid.UUID:
            # those of its checkpoints have the same identifier
            kind = "VirtualSystemType = 'Microsoft:Hyper-V:System:Realized'"
            query = f"VirtualSystemIdentifier = '{here.vm.upper()}' AND {kind}"
            with self._about("get", here.vm, here.host):
                (row,) = self._ask(
                    here.host,
                    Command(
                        "Get-CimInstance",
                        {
                            "Namespace": "root/virtualization/v2",
                            "ClassName": "Msvm_VirtualSystemSettingData",
                            "Filter": query,
                        },
                    ),
                    select=("BIOSGUID",),
                )
            return uuid.UUID(str(row["BIOSGUID"]))

        given = self._hosts.once("", f"bios {here.vm}", ask)
        # generation 1 has SMBIOS 2.3, whose first three fields Linux shows as they lie in memory
        swapped = self._options.smbios_uuid == "swapped"
        if self._options.smbios_uuid == "auto":
            swapped = int(here.row["Generation"]) == 1
        return str(uuid.UUID(bytes=given.bytes_le) if swapped else given)

    @staticmethod
    def _disk_state(row: Row) -> DiskState:
        path = str(row["Path"])
        volume = naming.parse_volume_file(path)
        return DiskState(naming.serial_of(path), int(row["Size"]), volume[0] if volume else "")

    def _nic_state(self, row: Row) -> NicState:
        mac = naming.our_mac(str(row["MacAddress"]))
        return NicState(id=mac, mac=mac, network=self._network(row), connected=bool(row["Connected"]))

    def addresses(self, vm: str) -> Sequence[str]:
        here = self._locate(vm, "addresses")
        if here.power is not PowerState.RUNNING:
            return ()
        rows = self._vm_ask(here, "addresses", Command("Get-VMNetworkAdapter"), select=("MacAddress", "IPAddresses"))
        told = [str(address) for row in rows for address in row["IPAddresses"] or ()]
        return tuple(dict.fromkeys(told)) or self._neighbours(here, [str(row["MacAddress"]) for row in rows])

    def _neighbours(self, here: Located, macs: list[str]) -> tuple[str, ...]:
        """What the host's own neighbour table says, for guests without hv_kvp_daemon; link-local ones tell nothing."""
        with self._about("addresses", here.vm, here.host):
            rows = self._ask(
                here.host,
                Command("Get-NetNeighbor"),
                Command(
                    "Where-Object",
                    {"Property": "LinkLayerAddress", "In": True, "Value": [_dashed(mac) for mac in macs]},
                ),
                select=("IPAddress",),
            )
        found = (str(row["IPAddress"]).partition("%")[0] for row in rows)
        return tuple(dict.fromkeys(address for address in found if not ip_address(address).is_link_local))


def _dashed(mac: str) -> str:
    return "-".join(mac[at : at + 2] for at in range(0, 12, 2))
