"""Virtual hard disks and the drives that hold them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import PureWindowsPath

from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, Work, cmdlet, none
from labs.hyperv_double.model.records import Place, Vm, parent
from labs.hyperv_double.model.site import Site
from labs.simulated.world.clock import Steps
from labs.simulated.world.disks import Layer
from labs.simulated.world.domain import DiskConfig
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host
from labs.simulated.world.storage import COPY_S


def serial_shown(identifier: str) -> str:
    """What a guest shows as a disk's serial: the identifier's bytes, as text where they are text."""
    raw = uuid.UUID(identifier).bytes_le.rstrip(b"\0")
    return raw.decode("ascii") if raw and all(32 < byte < 127 for byte in raw) else raw.hex()


def layer_at(call: Call, path: str) -> tuple[str, Layer]:
    """A disk's true path and its layer; raises what the module says where there is none."""
    host = call.model.host
    true = call.model.site.true_path(host, path)
    file = host.files.get(true)
    if file is None:
        raise HypervisorError("no-file", f"'{path}': The system cannot find the file specified")
    if not isinstance(file, Layer) or not file.valid or file.format == "raw" or suffix(true) not in KINDS:
        raise HypervisorError("bad-image", f"'{path}': The file or directory is corrupted and unreadable")
    return true, file


FREE_BYTES = 16 << 30
"""Of every volume, until a fixed disk takes it all: the world counts no bytes."""

KINDS = {".vhdx": "VHDX", ".avhdx": "VHDX", ".vhd": "VHD", ".avhd": "VHD"}


def suffix(path: str) -> str:
    return PureWindowsPath(path).suffix.lower()


def users(site: Site, host: Host, path: str) -> list[Vm]:
    """The VMs with a machine that has the file of this path open, on whichever host."""
    file = host.files.get(path)
    return [
        vm
        for vm in site.all_vms()
        if vm.domain.process is not None
        and any(file in layer.chain() for layer in vm.domain.process.layers.values() if isinstance(file, Layer))
    ]


def disk_item(call: Call, path: str) -> Item:
    host = call.model.host
    true, layer = layer_at(call, path)
    below = host.files.path_of(layer.backing) if layer.backing is not None else ""
    size = sum(len(block) for block in layer.blocks.values()) + (4 << 20)
    return Item(
        "VHD",
        true,
        {
            "Path": true,
            "VhdFormat": KINDS[suffix(true)],
            "VhdType": "Differencing" if below else "Dynamic",
            "Size": layer.size_bytes,
            "FileSize": size,
            "MinimumSize": layer.size_bytes,
            "ParentPath": below,
            "DiskIdentifier": layer.identifier or str(uuid.UUID(int=0)),
            "Attached": bool(users(call.model.site, host, true)),
        },
    )


@cmdlet("Get-VHD", "Path", "VMId")
def get_vhd(call: Call) -> Iterable[Item]:
    """Disks by path, or of the drives that come in."""
    if call.items is not None:
        paths = [str(item["Path"]) for item in call.items if item.get("Path")]
    else:
        given = call.need("Path")
        paths = [str(path) for path in (given if isinstance(given, list) else [given])]
    return [disk_item(call, path) for path in paths]


@cmdlet("New-VHD", "Path", "SizeBytes", "Dynamic", "Fixed", "Differencing", "ParentPath", "BlockSizeBytes")
def new_vhd(call: Call) -> Iterable[Item]:
    """A disk that reads as zeros, or as its parent."""
    host, path = call.model.host, str(PureWindowsPath(call.text("Path")))
    space = call.model.site.space_of(host, path)
    if call.model.site.file(host, path) is not None:
        raise HypervisorError("exists", f"'{path}': The file exists")
    call.model.site.need_folder(host, path)
    if suffix(path) not in KINDS:
        raise errors.invalid(call.name, f"'{path}' is no name for a virtual hard disk.")
    space.claim()
    below = layer_at(call, call.text("ParentPath"))[1] if call.has("ParentPath") else None
    size = call.number("SizeBytes", below.size_bytes if below else 0)
    if size <= 0:
        raise errors.invalid(call.name, "The size is missing.")
    layer = Layer(size, "qcow2", below, space)
    layer.identifier = below.identifier if below else call.model.site.world.new_uuid()
    host.files.put(path, layer)
    if call.switch("Fixed") and size > FREE_BYTES - (1 << 30):
        # all but a little of the volume: from here on nothing more fits, until the file is removed
        call.model.site.fillers[path] = space
        space.full = True
    return [disk_item(call, path)]


@cmdlet("Convert-VHD", "Path", "DestinationPath", "VHDType", "DeleteSource", "ParentPath")
def convert_vhd(call: Call) -> Work:
    """A full copy of what a disk shows; it has an identifier of its own."""
    model, host = call.model, call.model.host
    target = str(PureWindowsPath(call.text("DestinationPath")))

    def steps() -> Steps[list[Item]]:
        true, layer = layer_at(call, call.text("Path"))
        if users(model.site, host, true):
            raise HypervisorError("in-use", f"'{true}': The process cannot access the file")
        if model.site.file(host, target) is not None:
            raise HypervisorError("exists", f"'{target}': The file exists")
        space = model.site.space_of(host, target)
        space.claim()
        model.site.need_folder(host, target)
        yield COPY_S
        model.site.need_folder(host, target)
        copy = layer.flat(space)
        copy.identifier = model.site.world.new_uuid()
        host.files.put(target, copy)
        return [disk_item(call, target)]

    return Work(steps())


@cmdlet("Resize-VHD", "Path", "SizeBytes", "ToMinimumSize")
def resize_vhd(call: Call) -> Iterable[Item]:
    """Grows a disk, online where it is on SCSI; never below its minimum, and no disk with children."""
    model, host = call.model, call.model.host
    true, layer = layer_at(call, call.text("Path"))
    size = call.number("SizeBytes")
    if size < layer.size_bytes:
        raise HypervisorError("bad-request", f"'{true}' cannot be made smaller than {layer.size_bytes} bytes")
    files = (host.files.get(path) for path in host.files.paths() if parent(path) == parent(true))
    if layer.backing is not None or any(isinstance(file, Layer) and file.backing is layer for file in files):
        raise HypervisorError("bad-state", f"'{true}' is part of a chain of differencing disks")
    for vm in users(model.site, host, true):
        disk = next(disk for disk in vm.domain.config.disks if disk.path == true)
        if vm.places[disk.slot].controller == "IDE":
            raise HypervisorError("bad-state", f"'{true}' is on IDE, and the virtual machine runs")
    model.site.space_of(host, true).claim()
    layer.size_bytes = size
    return [disk_item(call, true)] if call.switch("Passthru") else none()


# drives


def drive(vm: Vm, disk: DiskConfig) -> Item:
    place = vm.places[disk.slot]
    return Item(
        "Drive",
        (vm, disk),
        {
            "Id": f"Microsoft:{vm.id.upper()}\\{disk.slot}",
            "Name": f"Hard Drive on {place.controller} controller number {place.number} at location {place.location}",
            "VMId": vm.id,
            "VMName": vm.name,
            "Path": disk.path,
            "ControllerType": place.controller,
            "ControllerNumber": place.number,
            "ControllerLocation": place.location,
        },
    )


@cmdlet("Get-VMHardDiskDrive", "ControllerType", "ControllerNumber", "ControllerLocation")
def get_vm_hard_disk_drive(call: Call) -> Iterable[Item]:
    """The drives of VMs, or of checkpoints with the disks of then."""
    for item in call.items or ():
        if item.kind == "VM":
            yield from (drive(item.ref, disk) for disk in item.ref.domain.config.disks)
        elif item.kind == "Snapshot":
            vm, id = item.ref
            yield from (drive(vm, disk) for disk in vm.domain.snapshots[id].config.disks)
        else:
            raise errors.invalid(call.name, "The input object cannot be bound to any parameters for the command.")


@cmdlet(
    "Add-VMHardDiskDrive", "Path", "ControllerType", "ControllerNumber", "ControllerLocation", "AllowUnverifiedPaths"
)
def add_vm_hard_disk_drive(call: Call) -> Iterable[Item]:
    """Plugs a disk in: SCSI at any time, IDE only while the VM is off. A running VM opens it at once."""
    model = call.model
    for vm in call.vms():
        controller = call.text("ControllerType", "IDE" if vm.generation == 1 else "SCSI")
        domain, process = vm.domain, vm.domain.process
        if domain.job:
            raise errors.fail(call.name, "InvalidState", "InvalidOperation", f"'{vm.name}' is busy: {domain.job}.")
        if vm.generation == 2 and controller == "IDE":
            raise errors.invalid(call.name, "A generation 2 virtual machine has no IDE controller.")
        if process is not None and controller == "IDE":
            raise errors.fail(call.name, "InvalidState", "InvalidOperation", f"'{vm.name}' runs.")
        if not call.has("Path"):
            vm.empty.append(Place(controller, 0, 63 - len(vm.empty)))
            continue
        true, layer = layer_at(call, call.text("Path"))
        if any(disk.path == true for disk in domain.config.disks):
            raise HypervisorError("in-use", f"'{true}' is attached to '{vm.name}' already")
        if process is not None and users(model.site, model.host, true):
            raise HypervisorError("in-use", f"'{true}': The process cannot access the file")
        taken = {
            place.location for disk in domain.config.disks if (place := vm.places[disk.slot]).controller == controller
        }
        location = call.number("ControllerLocation", min(set(range(64)) - taken))
        if location in taken:
            raise errors.invalid(call.name, f"There is a drive at location {location} already.")
        disk = DiskConfig(serial_shown(layer.identifier or str(uuid.UUID(int=1))), true, domain.config.slot())
        vm.places[disk.slot] = Place(controller, call.number("ControllerNumber"), location)
        domain.config.disks.append(disk)
        if process is not None:
            process.layers[disk.serial] = layer
    return none()


@cmdlet("Remove-VMHardDiskDrive", "ControllerType", "ControllerNumber", "ControllerLocation")
def remove_vm_hard_disk_drive(call: Call) -> Iterable[Item] | Work:
    """Unplugs disks; from a running VM once its guest lets go. The files stay."""
    refs: list[tuple[Vm, DiskConfig]] = call.refs("Drive")
    if not refs:
        return none()
    domain = refs[0][0].domain

    def steps() -> Steps[list[Item]]:
        for vm, disk in refs:
            yield from call.model.site.hypervisor.guest_releases(vm.domain)
            vm.domain.config.disks.remove(disk)
            if vm.domain.process is not None:
                vm.domain.process.layers.pop(disk.serial, None)
        return []

    return Work(steps(), domain if domain.process is not None else None, "unplug")
