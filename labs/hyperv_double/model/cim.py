"""WMI: the classes that a driver or a probe asks for, answered from the world, and the methods that they call.

Classes of ``root/virtualization/v2``: https://learn.microsoft.com/windows/win32/hyperv_v2/windows-virtualization-portal
"""

from __future__ import annotations

import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, cmdlet
from labs.hyperv_double.model.disks import layer_at, users
from labs.hyperv_double.model.model import Model
from labs.hyperv_double.model.network import nic_of
from labs.hyperv_double.model.records import Vm
from labs.hyperv_double.model.site import MARKER
from labs.hyperv_double.model.vms import state_of
from labs.simulated.world.disks import PlainFile
from labs.simulated.world.domain import Domain
from labs.simulated.world.process import Process

REALIZED = "Microsoft:Hyper-V:System:Realized"
PLANNED = "Microsoft:Hyper-V:System:Planned"
ENABLED = {"Running": 2, "Off": 3, "Saved": 6, "Paused": 9, "Starting": 10, "Saving": 32773}
"""EnabledState of Msvm_ComputerSystem."""

Rows = Iterator[tuple[Any, dict[str, Any]]]
"""What an instance stands for, and its properties."""


def machines(model: Model) -> Iterator[tuple[Vm, Domain, bool]]:
    """The VMs of a host with their domains, and those that a migration is bringing here (planned)."""
    for vm in model.site.vms[model.name].values():
        yield vm, vm.domain, False
    for domain in model.host.domains.values():
        if domain.incoming:
            yield model.site.by_uuid(domain.config.uuid), domain, True


def bios_guid(vm: Vm) -> str:
    """BIOSGUID; generation 1 shows it to the guest with its first three fields turned round."""
    shown = uuid.UUID(vm.domain.config.uuid)
    given = uuid.UUID(bytes=shown.bytes_le) if vm.generation == 1 else shown
    return f"{{{str(given).upper()}}}"


def computer_systems(model: Model, *, planned: bool) -> Rows:
    if not planned:
        yield (
            model,
            {"Caption": "Hosting Computer System", "Name": model.name, "ElementName": model.name, "EnabledState": 2},
        )
    for vm, domain, incoming in machines(model):
        if incoming is not planned:
            continue
        process = domain.process
        yield (
            (vm, domain),
            {
                "Caption": "Virtual Machine",
                "Name": vm.id.upper(),
                "ElementName": vm.name,
                "EnabledState": 2 if incoming else ENABLED.get(state_of(vm), 0),
                "ProcessID": process.pid if process is not None else None,
                "OnTimeInMilliseconds": 0,
            },
        )


def setting_data(model: Model) -> Rows:
    for vm, _, incoming in machines(model):
        yield (
            vm,
            {
                "InstanceID": f"Microsoft:{vm.id.upper()}",
                "VirtualSystemIdentifier": vm.id.upper(),
                "VirtualSystemType": PLANNED if incoming else REALIZED,
                "VirtualSystemSubType": f"Microsoft:Hyper-V:SubType:{vm.generation}",
                "ElementName": vm.name,
                "BIOSGUID": bios_guid(vm),
                "ConfigurationDataRoot": vm.path,
                "Notes": [vm.notes],
            },
        )


def processors(model: Model) -> Rows:
    for vm, domain, _ in machines(model):
        process = domain.process
        quantity = process.vcpus if process is not None else domain.config.vcpus
        yield (
            vm,
            {
                "InstanceID": f"Microsoft:{vm.id.upper()}\\processor\\0",
                "VirtualQuantity": quantity,
                "AllocationUnits": "percent / 1000",
            },
        )


def memories(model: Model) -> Rows:
    for vm, domain, _ in machines(model):
        process = domain.process
        quantity = process.memory_mib if process is not None else domain.config.memory_mib
        yield (
            vm,
            {
                "InstanceID": f"Microsoft:{vm.id.upper()}\\memory",
                "VirtualQuantity": quantity,
                "AllocationUnits": "byte * 2^20",
            },
        )


def storage_allocations(model: Model) -> Rows:
    for vm, domain, _ in machines(model):
        for disk in domain.config.disks:
            yield (
                vm,
                {"InstanceID": f"Microsoft:{vm.id.upper()}\\{disk.slot}\\L", "HostResource": [disk.path]},
            )


def drives(model: Model) -> Rows:
    """The drives, with a disk in them or without."""
    for vm, domain, _ in machines(model):
        places = [vm.places[disk.slot] for disk in domain.config.disks if disk.slot in vm.places] + vm.empty
        for place in places:
            where = f"{place.controller}\\{place.number}\\{place.location}"
            yield (
                vm,
                {
                    "InstanceID": f"Microsoft:{vm.id.upper()}\\{where}\\D",
                    "ResourceSubType": "Microsoft:Hyper-V:Synthetic Disk Drive",
                },
            )


def ethernet_ports(model: Model) -> Rows:
    for vm, _, _ in machines(model):
        for adapter in vm.adapters:
            yield (
                vm,
                {
                    "InstanceID": f"Microsoft:{vm.id.upper()}\\{adapter.id.upper()}",
                    "Address": adapter.mac.replace(":", "").upper(),
                    "ElementName": adapter.name,
                },
            )


def switch_ports(model: Model) -> Rows:
    """The ports of switches that a machine is plugged into now."""
    for vm, domain, _ in machines(model):
        for adapter in vm.adapters:
            nic = nic_of(vm, adapter)
            if nic is not None and domain.process is not None and nic.mac in domain.process.vifs:
                yield (
                    vm,
                    {
                        "Name": adapter.id.upper(),
                        "ElementName": vm.name,
                        "PermanentAddress": nic.mac.replace(":", "").upper(),
                    },
                )


def shutdown_components(model: Model) -> Rows:
    for vm in model.site.vms[model.name].values():
        if vm.domain.process is not None:
            yield vm, {"SystemName": vm.id.upper(), "EnabledState": 2}


def image_service(model: Model) -> Rows:
    yield model, {"Name": "vhdsvc", "ElementName": "Hyper-V Image Management Service"}


def worker_processes(model: Model) -> Rows:
    for vm, domain, _ in machines(model):
        if domain.process is not None:
            yield (
                domain.process,
                {
                    "Name": "vmwp.exe",
                    "ProcessId": domain.process.pid,
                    "CommandLine": f'"C:\\Windows\\System32\\vmwp.exe" {vm.id.upper()}',
                },
            )


def virtual_processors(model: Model) -> Rows:
    """Run time of virtual processors, in units of 100 ns."""
    for vm, domain, _ in machines(model):
        process = domain.process
        if process is None:
            continue
        share = round(process.vcpu_seconds * 1e7 / process.vcpus)
        for number in range(process.vcpus):
            yield vm, {"Name": f"{vm.name}:Hv VP {number}", "PercentGuestRunTime": share}


def operating_system(model: Model) -> Rows:
    yield (
        model,
        {
            "Caption": "hvconform double of Windows Server 2019",
            "Version": "10.0.17763",
            "BuildNumber": "17763",
            "LocalDateTime": model.site.world.wall_ns() / 1e9,
        },
    )


def machine(model: Model) -> Rows:
    yield (
        model,
        {
            "Manufacturer": MARKER,
            "Model": "Hyper-V host double",
            "Name": model.name,
            "TotalPhysicalMemory": model.host.memory_mib << 20,
        },
    )


CLASSES: Mapping[str, Callable[[Model], Rows]] = {
    "msvm_computersystem": lambda model: computer_systems(model, planned=False),
    "msvm_plannedcomputersystem": lambda model: computer_systems(model, planned=True),
    "msvm_virtualsystemsettingdata": setting_data,
    "msvm_processorsettingdata": processors,
    "msvm_memorysettingdata": memories,
    "msvm_storageallocationsettingdata": storage_allocations,
    "msvm_resourceallocationsettingdata": drives,
    "msvm_syntheticethernetportsettingdata": ethernet_ports,
    "msvm_ethernetswitchport": switch_ports,
    "msvm_shutdowncomponent": shutdown_components,
    "msvm_imagemanagementservice": image_service,
    "win32_process": worker_processes,
    "win32_perfrawdata_hvstats_hypervhypervisorvirtualprocessor": virtual_processors,
    "win32_operatingsystem": operating_system,
    "win32_computersystem": machine,
}

_CONDITION = re.compile(r"\s*(\w+)\s*(=|<>|LIKE)\s*(?:'((?:[^'\\]|\\.|'')*)'|(\d+))\s*", re.IGNORECASE)


def matches(filter: str, row: Mapping[str, Any]) -> bool:
    """A WQL condition: comparisons joined by AND; texts are compared without case."""
    at, fits = 0, True
    while at < len(filter):
        found = _CONDITION.match(filter, at)
        if found is None:
            raise ValueError(filter)
        name, operator, text, number = found.groups()
        wanted = (number if text is None else re.sub(r"\\(.)", r"\1", text)).casefold()
        value = next((str(value).casefold() for key, value in row.items() if key.lower() == name.lower()), "")
        if operator.upper() == "LIKE":
            holds = re.fullmatch(re.escape(wanted).replace("%", ".*"), value, re.DOTALL) is not None
        else:
            holds = (value == wanted) is (operator == "=")
        fits = fits and holds
        at = found.end()
        if at < len(filter):
            joined = re.compile(r"AND\b", re.IGNORECASE).match(filter, at)
            if joined is None:
                raise ValueError(filter)
            at = joined.end()
    return fits


@cmdlet("Get-CimInstance", "ClassName", "Namespace", "Filter", "Property", module="cimcmdlets")
def get_cim_instance(call: Call) -> Iterable[Item]:
    """Instances of a class, all or those that a WQL condition selects."""
    name = str(call.need("ClassName"))
    source = CLASSES.get(name.lower())
    virtual = call.text("Namespace", "root/cimv2").replace("\\", "/").lower() == "root/virtualization/v2"
    if source is None or virtual is not name.lower().startswith("msvm_"):
        raise errors.cim_error(call.name, "Invalid class ", "HRESULT 0x80041010", "MetadataError", 0x80131500)
    if virtual and not call.model.host.management_up:
        raise errors.cim_error(call.name, "Provider failure ", "HRESULT 0x80041004", "NotSpecified", 0x80131500)
    try:
        matches(call.text("Filter"), {})  # a query that is none is an error even where there is nothing
        found = [(ref, row) for ref, row in source(call.model) if matches(call.text("Filter"), row)]
    except ValueError:
        raise errors.cim_error(
            call.name, "Invalid query ", "HRESULT 0x80041017", "InvalidArgument", 0x80131500
        ) from None
    return [Item(name.lower(), ref, {**row, "CimClass": name}) for ref, row in found]


def _initiate_shutdown(_call: Call, vm: Vm, _: Mapping[str, Any]) -> int:
    """Msvm_ShutdownComponent.InitiateShutdown: 0 once the guest has taken the request."""
    process = vm.domain.process
    guest = process.guest if process is not None else None
    return 0 if guest is not None and guest.press_power_button() else 32768


def _set_disk(call: Call, _: Model, arguments: Mapping[str, Any]) -> int:
    """Msvm_ImageManagementService.SetVirtualHardDiskSettingData: the identifier of a disk that is not in use."""
    try:
        instance = ET.fromstring(str(arguments["VirtualDiskSettingData"]))
    except (ET.ParseError, KeyError):
        return 32773
    given = {item.get("NAME"): item.findtext("VALUE", "") for item in instance.iter("PROPERTY")}
    path, layer = layer_at(call, given.get("Path", ""))
    if users(call.model.site, call.model.host, path):
        return 32774
    try:
        layer.identifier = str(uuid.UUID(given["VirtualDiskId"]))
    except (KeyError, ValueError):
        return 32773
    return 0


def _terminate(call: Call, process: Process, _: Mapping[str, Any]) -> int:
    """Win32_Process.Terminate."""
    process.domain.failed = True
    call.model.host.note(f"process {process.pid} of {process.domain.config.uuid} was killed")
    process.end()
    return 0


METHODS: Mapping[tuple[str, str], Callable[[Call, Any, Mapping[str, Any]], int]] = {
    ("msvm_shutdowncomponent", "initiateshutdown"): _initiate_shutdown,
    ("msvm_imagemanagementservice", "setvirtualharddisksettingdata"): _set_disk,
    ("win32_process", "terminate"): _terminate,
}


_READER = re.compile(r'-File "([^"]+)" -Pipe "([^"]+)" -Log "([^"]+)"$')


def _create_process(call: Call, arguments: Mapping[str, Any]) -> int:
    """Win32_Process.Create. No program runs here: the model knows the driver's console reader by its command line, and
    does what that does, copying a VM's serial port from its pipe to a file."""
    found = _READER.search(str(arguments.get("CommandLine", "")))
    host = call.model.host
    if found is None or host.files.get(found[1]) is None:
        return 9  # path not found
    for vm in call.model.site.vms[call.model.name].values():
        if vm.ports.get(1) == rf"\\.\pipe\{found[2]}" and vm.domain.process is not None:
            before = host.files.get(found[3])
            vm.domain.console.data = (before.data if isinstance(before, PlainFile) else b"") + vm.domain.console.data
            host.files.put(found[3], vm.domain.console)
    return 0


@cmdlet("Invoke-CimMethod", "MethodName", "Arguments", "ClassName", "Namespace", module="cimcmdlets")
def invoke_cim_method(call: Call) -> Iterable[Item]:
    """Calls a method of the instances that come in, or a static one of a class."""
    method = str(call.need("MethodName"))
    arguments = call.get("Arguments") or {}
    if (call.text("ClassName").lower(), method.lower()) == ("win32_process", "create"):
        yield Item("Return", None, {"ReturnValue": _create_process(call, arguments)})
        return
    for item in call.items or ():
        found = METHODS.get((item.kind, method.lower()))
        if found is None:
            raise errors.cim_error(call.name, "Invalid method ", "HRESULT 0x8004102e", "MetadataError", 0x80131500)
        yield Item("Return", None, {"ReturnValue": found(call, item.ref, arguments)})
