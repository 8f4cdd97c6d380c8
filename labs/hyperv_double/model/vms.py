"""VMs: made, looked at, changed and removed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, cmdlet, none
from labs.hyperv_double.model.records import Adapter, Vm, join
from labs.hyperv_double.model.site import Site
from labs.simulated.world.disks import PlainFile
from labs.simulated.world.domain import Config, Domain

DEFAULT_ADAPTER = "Network Adapter"
STATUS = {
    "merge": "MergingDisks",
    "snapshot": "CreatingSnapshot",
    "revert": "ApplyingSnapshot",
    "migrate": "MigratingVirtualMachine",
    "export": "ExportingVirtualMachine",
}


def state_of(vm: Vm) -> str:
    """VMState, as the module names it."""
    domain = vm.domain
    if domain.job in ("start", "suspend"):
        return "Starting" if domain.job == "start" else "Saving"
    process = domain.process
    if process is None:
        return "Saved" if domain.state_path else "Off"
    return "Paused" if process.paused and domain.job != "migrate" and domain.job != "snapshot" else "Running"


def pattern(text: str) -> re.Pattern[str]:
    """A PowerShell wildcard: ``*``, ``?`` and sets; a backtick takes their meaning away."""
    out, at = "", 0
    while at < len(text):
        if text[at] == "`" and at + 1 < len(text):
            out += re.escape(text[at + 1])
            at += 2
            continue
        if text[at] == "[" and "]" in text[at:]:
            end = text.index("]", at)
            out += text[at : end + 1]
            at = end + 1
            continue
        out += {"*": ".*", "?": "."}.get(text[at], re.escape(text[at]))
        at += 1
    return re.compile(out, re.IGNORECASE | re.DOTALL)


def shown(site: Site, vm: Vm) -> Item:
    """A VM as Get-VM shows it."""
    config, process = vm.domain.config, vm.domain.process
    working = [STATUS[vm.domain.job]] if vm.domain.job in STATUS else []
    hosts = site.world.inventory.hosts
    return Item(
        "VM",
        vm,
        {
            "Id": vm.id,
            "VMId": vm.id,
            "Name": vm.name,
            "VMName": vm.name,
            "State": state_of(vm),
            "Notes": vm.notes,
            "ProcessorCount": config.vcpus,
            "MemoryStartup": config.memory_mib << 20,
            "MemoryAssigned": process.memory_mib << 20 if process else 0,
            "DynamicMemoryEnabled": not vm.static_memory,
            "Generation": vm.generation,
            "Version": vm.version,
            "Path": vm.path,
            "ConfigurationLocation": vm.path,
            "CheckpointType": vm.checkpoint_type,
            "OperationalStatus": ["Ok", *working],
            "Status": "Operating normally",
            "Uptime": 0.0,
            "ComputerName": next(host.name for host in hosts if host.name == vm.host),
        },
    )


@cmdlet("Get-VM", "Id", "Name")
def get_vm(call: Call) -> Iterable[Item]:
    """All VMs, those whose name matches a wildcard, or the one with an id."""
    site = call.model.site
    here = list(site.vms[call.model.name].values())
    if call.has("Id"):
        wanted = str(call.get("Id")).lower()
        found = [vm for vm in here if vm.id == wanted]
        if not found:
            raise errors.fail(
                call.name,
                "InvalidParameter",
                "InvalidArgument",
                f"Hyper-V was unable to find a virtual machine with id {wanted}.",
            )
    elif call.has("Name"):
        names = call.get("Name")
        names = names if isinstance(names, list) else [names]
        found = [vm for vm in here if any(pattern(str(name)).fullmatch(vm.name) for name in names)]
        literal = [str(name) for name in names if not re.search(r"[*?\[]", str(name))]
        if literal and not found:
            raise errors.fail(
                call.name,
                "InvalidParameter",
                "InvalidArgument",
                f'Hyper-V was unable to find a virtual machine with name "{literal[0]}".',
            )
    else:
        found = here
    return [shown(site, vm) for vm in found]


@cmdlet(
    "New-VM", "Name", "MemoryStartupBytes", "Generation", "Path", "NoVHD", "VHDPath", "NewVHDPath", "NewVHDSizeBytes",
    "SwitchName", "BootDevice", "Version",
)  # fmt: skip
def new_vm(call: Call) -> Iterable[Item]:
    """A VM that is off, with one NIC on no switch, its configuration below ``-Path`` in a folder of its name."""
    model = call.model
    world, host = model.site.world, model.host
    name = call.text("Name", "New Virtual Machine")
    if re.search(r'[<>:"/\\|?*]', name):
        raise errors.fail(
            call.name, "OperationFailed", "NotSpecified", f"The name '{name}' is no folder's. (0x8007007B)"
        )
    where = call.text("Path", str(world.inventory.storages[-1].path))
    storage = model.site.storage_of(where)
    model.site.space_of(host, where).claim()
    generation = call.number("Generation", 1)
    memory = call.number("MemoryStartupBytes", 512 << 20) >> 20
    config = Config(
        uuid=world.new_uuid(),
        name=name,
        owner="hyperv",
        vcpus=1,
        memory_mib=memory,
        max_vcpus=1,
        firmware="uefi" if generation == 2 else "bios",
        storage=storage,
    )
    domain = Domain(config, PlainFile())
    host.domains[config.uuid] = domain
    vm = Vm(world.new_uuid(), domain, host.name, generation, join(where, name), created=world.clock.monotonic())
    model.site.vms[host.name][vm.id] = vm
    model.site.hypervisor.keep_files(vm)
    vm.adapters.append(Adapter(world.new_uuid(), DEFAULT_ADAPTER))
    host.note(f"created {name}")
    return [shown(model.site, vm)]


@cmdlet(
    "Set-VM", "Notes", "ProcessorCount", "MemoryStartupBytes", "StaticMemory", "DynamicMemory", "CheckpointType",
    "AutomaticCheckpointsEnabled", "AutomaticStartAction", "AutomaticStopAction", "NewVMName", "SnapshotFileLocation",
)  # fmt: skip
def set_vm(call: Call) -> Iterable[Item]:
    """Settings; vCPUs only while the VM is off, memory of a running one only where it is static."""
    for vm in call.vms():
        config = vm.domain.config
        running = vm.domain.process is not None
        if call.has("ProcessorCount") and call.number("ProcessorCount") != config.vcpus:
            if running or vm.domain.state_path:
                raise errors.fail(
                    call.name, "InvalidState", "InvalidOperation", "The processor count can be changed only while off."
                )
            config.vcpus = call.number("ProcessorCount")
            config.max_vcpus = max(config.max_vcpus, config.vcpus)
        if call.has("MemoryStartupBytes"):
            mib = call.number("MemoryStartupBytes") >> 20
            if mib % 2 or mib < 32:
                raise errors.invalid(call.name, f"{mib} MiB is no amount of memory for a virtual machine.")
            if vm.domain.state_path:
                raise errors.fail(call.name, "InvalidState", "InvalidOperation", "The virtual machine is saved.")
            config.memory_mib = mib
            if vm.domain.process is not None:
                vm.domain.process.memory_mib = mib
        vm.notes = call.text("Notes", vm.notes)
        vm.static_memory = vm.static_memory or call.switch("StaticMemory")
        vm.checkpoint_type = call.text("CheckpointType", vm.checkpoint_type)
    return none()


@cmdlet("Rename-VM", "NewName")
def rename_vm(call: Call) -> Iterable[Item]:
    """Another name; the folder keeps its own."""
    name = str(call.need("NewName"))
    if not name.strip() or len(name) > 100:
        raise errors.invalid(call.name, f"The name is empty or longer than 100 characters: {len(name)}.")
    for vm in call.vms():
        vm.domain.config.name = name
    return none()


@cmdlet("Remove-VM")
def remove_vm(call: Call) -> Iterable[Item]:
    """The VM and its checkpoints; their layers are merged, and no virtual hard disk is deleted."""
    site = call.model.site
    for vm in call.vms():
        domain, host = vm.domain, call.model.host
        if domain.process is not None or domain.job:
            raise errors.fail(
                call.name, "InvalidState", "InvalidOperation", f"'{vm.name}' cannot be deleted in its current state."
            )
        site.hypervisor.drop_files(vm)
        domain.snapshots.clear()
        site.hypervisor.collapse(host, domain)
        host.domains.pop(domain.config.uuid, None)
        del site.vms[vm.host][vm.id]
        host.note(f"deleted {vm.name}")
    return none()


@cmdlet("Set-VMFirmware", "EnableSecureBoot", "SecureBootTemplate", "FirstBootDevice", "BootOrder")
def set_vm_firmware(call: Call) -> Iterable[Item]:
    """Secure Boot; generation 2 only."""
    for vm in call.vms():
        if vm.generation != 2:
            raise errors.fail(
                call.name, "InvalidParameter", "InvalidArgument", f"'{vm.name}' is a generation 1 virtual machine."
            )
        vm.secure_boot = call.text("EnableSecureBoot", "On" if vm.secure_boot else "Off") == "On"
    return none()


@cmdlet("Set-VMComPort", "Number", "Path", "DebuggerMode")
def set_vm_com_port(call: Call) -> Iterable[Item]:
    """Leads a serial port to a named pipe."""
    for vm in call.vms():
        number = call.number("Number")
        if number not in (1, 2):
            raise errors.invalid(call.name, f"There is no COM port {number}.")
        vm.ports[number] = call.text("Path")
    return none()


@cmdlet("Get-VMComPort", "Number")
def get_vm_com_port(call: Call) -> Iterable[Item]:
    """The serial ports with their pipes."""
    return [
        Item("ComPort", vm, {"Id": number, "Name": f"COM {number}", "Path": vm.ports.get(number, ""), "VMId": vm.id})
        for vm in call.vms()
        for number in (1, 2)
    ]


@cmdlet("Get-VMHost")
def get_vm_host(call: Call) -> Iterable[Item]:
    """The host's own settings."""
    model = call.model
    return [
        Item(
            "VMHost",
            model,
            {
                "Name": model.name,
                "ComputerName": model.name,
                "MemoryCapacity": model.host.memory_mib << 20,
                "LogicalProcessorCount": 16,
                "VirtualMachineMigrationEnabled": model.knobs.migration_enabled,
                "VirtualMachineMigrationAuthenticationType": model.knobs.migration_authentication,
                "VirtualMachinePath": str(model.site.world.inventory.storages[-1].path),
            },
        )
    ]


@cmdlet("Get-VMHostSupportedVersion", "Default")
def get_vm_host_supported_version(call: Call) -> Iterable[Item]:
    """Configuration versions that the host takes."""
    known: list[dict[str, Any]] = [
        {"Name": "Microsoft Windows Server 2016", "Version": "8.0", "IsDefault": False},
        {"Name": "Microsoft Windows Server 2019", "Version": "9.0", "IsDefault": True},
    ]
    return [Item("Version", None, row) for row in known if row["IsDefault"] or not call.switch("Default")]
