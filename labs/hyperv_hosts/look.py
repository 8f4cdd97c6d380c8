"""One look at a Hyper-V host by WMI: its VMs with what belongs to each, and everything that a VM could leave behind.

Classes: https://learn.microsoft.com/windows/win32/hyperv_v2/windows-virtualization-portal
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from conformance.observers.host import Entry, HostDomain, Inventory, Kind
from labs.hyperv_hosts.session import Element, Row, Session

NAMESPACE = "root/virtualization/v2"
REALIZED = "Microsoft:Hyper-V:System:Realized"
PLANNED = "Microsoft:Hyper-V:System:Planned"
GENERATION_1 = "Microsoft:Hyper-V:SubType:1"
RUNNING_STATES = (2, 4, 9, 10, 32773, 32776)
"""EnabledState: enabled, shutting down, quiesced (paused), starting, saving, pausing."""
PAUSED, SAVED = 9, 6

_OWNER = re.compile(r"Microsoft:([0-9A-F-]{36})", re.IGNORECASE)


def cim(name: str, **more: str) -> Element:
    """A query for a class of the Hyper-V namespace."""
    return ("Get-CimInstance", {"Namespace": NAMESPACE, "ClassName": name, **more})


SYSTEM = ("Name", "ElementName", "EnabledState", "ProcessID")
SETTINGS = ("VirtualSystemIdentifier", "VirtualSystemType", "VirtualSystemSubType", "BIOSGUID")
QUANTITY = ("InstanceID", "VirtualQuantity", "AllocationUnits")
STORAGE = ("InstanceID", "HostResource")
DRIVE = ("InstanceID", "ResourceSubType")
ETHERNET = ("InstanceID", "Address")
RUN_TIME = ("Name", "PercentGuestRunTime")
FILE = ("FullName", "PSIsContainer")
PORT = ("Name", "PermanentAddress")
POLICY = ("Name", "ThrottleRate")

VMS: Sequence[tuple[Sequence[Element], Sequence[str]]] = (
    ([cim("Msvm_ComputerSystem", Filter="Caption = 'Virtual Machine'")], SYSTEM),
    ([cim("Msvm_PlannedComputerSystem")], SYSTEM),
    ([cim("Msvm_VirtualSystemSettingData")], SETTINGS),
    ([cim("Msvm_ProcessorSettingData")], QUANTITY),
    ([cim("Msvm_MemorySettingData")], QUANTITY),
    ([cim("Msvm_StorageAllocationSettingData")], STORAGE),
    ([cim("Msvm_SyntheticEthernetPortSettingData")], ETHERNET),
    (
        [("Get-CimInstance", {"ClassName": "Win32_PerfRawData_HvStats_HyperVHypervisorVirtualProcessor"})],
        RUN_TIME,
    ),
)


def everything(folders: Iterable[str]) -> Sequence[tuple[Sequence[Element], Sequence[str]]]:
    """The queries behind an inventory."""
    return (
        *VMS,
        (
            [
                cim(
                    "Msvm_ResourceAllocationSettingData",
                    Filter="ResourceSubType = 'Microsoft:Hyper-V:Synthetic Disk Drive'",
                )
            ],
            DRIVE,
        ),
        ([cim("Msvm_EthernetSwitchPort")], PORT),
        ([("Get-NetQosPolicy", {})], POLICY),
        *(([("Get-ChildItem", {"LiteralPath": folder, "Recurse": True, "Force": True})], FILE) for folder in folders),
    )


@dataclass
class Vm:
    """A VM as WMI shows it, put together from its parts. `planned`: a migration is bringing it here."""

    id: str
    name: str = ""
    state: int = 0
    pid: int = 0
    uuid: str = ""
    planned: bool = False
    vcpus: int = 0
    memory_mib: int = 0
    disks: list[str] = field(default_factory=list)
    macs: list[str] = field(default_factory=list)
    run_time: int = 0

    @property
    def running(self) -> bool:
        return self.pid != 0 and (self.planned or self.state in RUNNING_STATES)


@dataclass
class Look:
    """One host at one moment."""

    host: str
    vms: dict[str, Vm]
    files: list[str]
    ports: list[str]
    policies: list[str]
    drives: list[str]

    def domains(self) -> list[HostDomain]:
        return [
            HostDomain(
                uuid=vm.uuid,
                name=vm.name,
                host=self.host,
                running=vm.running,
                paused=vm.running and (vm.state == PAUSED or vm.planned),
                pid=vm.pid if vm.running else 0,
                vcpu_seconds=vm.run_time / 1e7,
                vcpus=vm.vcpus,
                memory_mib=vm.memory_mib,
                macs=tuple(vm.macs),
                disk_paths=tuple(vm.disks),
            )
            for vm in self.vms.values()
        ]

    def inventory(self) -> Inventory:
        return frozenset(self._entries())

    def _entries(self) -> Iterator[Entry]:
        for vm in self.vms.values():
            yield Entry(self.host, Kind.DOMAIN, vm.id, vm.name)
            if vm.state == SAVED:
                # the file is there all the time; that it holds memory is what somebody may leave behind
                yield Entry(self.host, Kind.FILE, f"saved state of {vm.id}", vm.name)
            if vm.pid:
                yield Entry(self.host, Kind.PROCESS, f"vmwp {vm.id}", f"pid {vm.pid}")
        for path in self.files:
            yield Entry(self.host, Kind.FILE, path)
        for port in self.ports:
            yield Entry(self.host, Kind.INTERFACE, port)
        for drive in self.drives:
            yield Entry(self.host, Kind.MOUNT, drive)
        for policy in self.policies:
            yield Entry(self.host, Kind.RULE, policy)


def look(session: Session, host: str, folders: Sequence[str] = ()) -> Look:
    """Look at a host; with `folders` at all that lies in them, too."""
    rows = session.ask_all(everything(folders) if folders else VMS)
    found = Look(host, {}, [], [], [], [])
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        kinds.setdefault(tuple(sorted(row)), []).append(row)

    def of(select: Sequence[str]) -> list[Row]:
        return kinds.get(tuple(sorted(select)), [])

    for row in of(SYSTEM):
        id = str(row["Name"]).lower()
        pid = int(row["ProcessID"] or 0)
        found.vms[id] = Vm(id, str(row["ElementName"]), int(row["EnabledState"] or 0), pid)
    for row in of(SETTINGS):
        vm = found.vms.get(str(row["VirtualSystemIdentifier"]).lower())
        if vm is not None and row["VirtualSystemType"] in (REALIZED, PLANNED):
            vm.planned = row["VirtualSystemType"] == PLANNED
            vm.uuid = guest_uuid(str(row["BIOSGUID"]), first_generation=row["VirtualSystemSubType"] == GENERATION_1)
    for row in of(QUANTITY):
        vm = _owner(found, row)
        if vm is not None and "byte" in str(row["AllocationUnits"]):
            vm.memory_mib = int(row["VirtualQuantity"])
        elif vm is not None:
            vm.vcpus = int(row["VirtualQuantity"])
    for row in of(STORAGE):
        vm = _owner(found, row)
        if vm is not None:
            vm.disks += [str(path) for path in _listed(row["HostResource"])]
    for row in of(ETHERNET):
        vm = _owner(found, row)
        if vm is not None and row["Address"]:
            text = str(row["Address"]).lower()
            vm.macs.append(":".join(text[at : at + 2] for at in range(0, 12, 2)))
    for row in of(RUN_TIME):
        name = str(row["Name"]).rpartition(":Hv VP")[0]
        for vm in found.vms.values():
            if vm.name == name and not vm.planned:
                vm.run_time += int(row["PercentGuestRunTime"])
    found.files = sorted(str(row["FullName"]) for row in of(FILE))
    found.ports = sorted(f"port {row['Name']} of {row['PermanentAddress']}" for row in of(PORT))
    found.drives = sorted(
        f"drive {str(row['InstanceID']).partition(':')[2]}" for row in of(DRIVE) if _owner(found, row) is not None
    )
    found.policies = sorted(f"policy {row['Name']}" for row in of(POLICY))
    return found


def guest_uuid(bios_guid: str, *, first_generation: bool) -> str:
    """What a guest shows: SMBIOS 2.3 of generation 1 is shown by Linux with its first three fields as they lie."""
    given = uuid.UUID(bios_guid)
    return str(uuid.UUID(bytes=given.bytes_le) if first_generation else given)


def _owner(found: Look, row: Row) -> Vm | None:
    match = _OWNER.match(str(row["InstanceID"]))
    return found.vms.get(match[1].lower()) if match else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
