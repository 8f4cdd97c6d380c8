"""Checkpoints. Their kind is the VM's CheckpointType; a production one that cannot be had becomes a standard one."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, Work, cmdlet, none
from labs.hyperv_double.model.power import one, require
from labs.hyperv_double.model.records import Checkpoint, Vm
from labs.hyperv_double.model.vms import state_of
from labs.simulated.world.clock import Steps
from labs.simulated.world.domain import MemoryFile
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.guest import Guest
from labs.simulated.world.process import Process
from labs.simulated.world.storage import SNAPSHOT_S, SavedMemory


def shown(vm: Vm, id: str) -> Item:
    """A checkpoint as Get-VMSnapshot shows it."""
    snapshot, checkpoint = vm.domain.snapshots[id], vm.checkpoints[id]
    return Item(
        "Snapshot",
        (vm, id),
        {
            "Id": id,
            "Name": snapshot.name,
            "VMId": vm.id,
            "VMName": vm.name,
            "SnapshotType": "Standard",
            "State": checkpoint.state,
            "ParentSnapshotId": snapshot.parent,
            "ParentSnapshotName": vm.domain.snapshots[snapshot.parent].name if snapshot.parent else None,
            "CreationTime": f"{checkpoint.created:020.6f}",
        },
    )


@cmdlet("Get-VMSnapshot", "Id", "Name", "SnapshotType")
def get_vm_snapshot(call: Call) -> Iterable[Item]:
    """The checkpoints of VMs, or the one with an id on this host."""
    if call.items is None:
        wanted = str(call.need("Id")).lower()
        vms = call.model.site.vms[call.model.name].values()
        found = [shown(vm, id) for vm in vms for id in vm.domain.snapshots if id == wanted]
        if not found:
            raise errors.not_found(call.name, f"a checkpoint with id {wanted}")
        return found
    return [shown(vm, id) for vm in call.vms() for id in vm.domain.snapshots]


def _quiesces(call: Call, vm: Vm) -> bool:
    """Whether the guest's backup service (VSS, hv_vss_daemon) can freeze its file systems."""
    process = vm.domain.process
    guest = process.guest if process is not None and not process.paused else None
    return guest is not None and guest.answering and not call.model.knobs.production_falls_back


@cmdlet("Checkpoint-VM", "SnapshotName")
def checkpoint_vm(call: Call) -> Work:
    """A checkpoint of the kind that the VM is set to. Production takes no memory; ProductionOnly never takes any."""
    vm, site = one(call), call.model.site
    name = call.text("SnapshotName", f"{vm.name} - {len(vm.domain.snapshots)}")
    state = state_of(vm)
    kind = vm.checkpoint_type
    if kind == "Disabled":
        raise errors.fail(call.name, "InvalidState", "InvalidOperation", f"Checkpoints are disabled for '{vm.name}'.")
    require(call, vm, "Running", "Paused", "Off", "Saved")
    running = vm.domain.process is not None
    production = running and kind != "Standard" and _quiesces(call, vm)
    if running and kind == "ProductionOnly" and not production:
        raise errors.fail(
            call.name,
            "OperationFailed",
            "NotSpecified",
            f"Production checkpoints cannot be created for '{vm.name}'. (0x80070015)",
        )

    def steps() -> Steps[list[Item]]:
        memory = running and not production
        id = yield from site.hypervisor.snapshot(call.model.host, vm.domain, name, memory=memory, quiesce=production)
        made = {"Paused": "Paused", "Saved": "Saved"}.get(state, "Running") if memory else "Off"
        adapters = copy.deepcopy(vm.adapters)
        vm.checkpoints[id] = Checkpoint(id, made, site.world.clock.monotonic(), adapters, vm.notes)
        return [shown(vm, id)]

    return Work(steps(), vm.domain, "snapshot")


@cmdlet("Restore-VMSnapshot")
def restore_vm_snapshot(call: Call) -> Work:
    """Applies a checkpoint: the VM is off afterwards, or saved where the checkpoint has memory."""
    ((vm, id),) = call.refs("Snapshot")
    site, host = call.model.site, call.model.host
    hypervisor = site.hypervisor

    def steps() -> Steps[list[Item]]:
        domain = vm.domain
        snapshot = hypervisor.find_snapshot(domain, id)
        hypervisor.claim_space(host, domain)
        yield SNAPSHOT_S
        hypervisor.destroy(domain)
        hypervisor.forget_state(host, domain)
        attached = {disk.serial: disk.path for disk in domain.config.disks}
        domain.config = copy.deepcopy(snapshot.config)
        domain.config.name = vm.name
        domain.config.next_slot = max(domain.config.next_slot, 64, *(vm.places or [0])) + 1
        vm.adapters = copy.deepcopy(vm.checkpoints[id].adapters)
        for disk in domain.config.disks:
            disk.path = attached.get(disk.serial, disk.path)
            hypervisor.revert_disk(host, domain, disk, snapshot)
        domain.current = id
        hypervisor.collapse(host, domain)
        if snapshot.memory_path:
            _put_saved(vm, snapshot.memory_path, call)
        return []

    return Work(steps(), vm.domain, "revert")


def _put_saved(vm: Vm, memory_path: str, call: Call) -> None:
    """The checkpoint's memory becomes the VM's saved state, from which Start-VM goes on."""
    host, domain = call.model.host, vm.domain
    saved = host.files.get(memory_path)
    assert isinstance(saved, SavedMemory)
    # a guest needs a process to be made in; this one never runs
    process = Process(domain, host)
    guest = Guest(process)
    guest.copy_of(saved.memory, saved.monotonic_ns)
    for mac in process.vifs:
        guest.station(mac)
    process.adopt(guest, paused=True)
    process.release_guest()
    process.end()
    path = vm.file("vmrs")
    host.files.put(path, MemoryFile(guest, f"ram of {vm.id}"))
    domain.state_path = path


@cmdlet("Remove-VMSnapshot", "IncludeAllChildSnapshots")
def remove_vm_snapshot(call: Call) -> Iterable[Item] | Work:
    """Removes checkpoints; their disks merge afterwards, while the VM's status says so."""
    refs: list[tuple[Vm, str]] = call.refs("Snapshot")
    if not refs:
        return none()
    vm, site = refs[0][0], call.model.site
    if vm.domain.job:
        raise HypervisorError("busy", f"'{vm.name}' is busy with: {vm.domain.job}")

    def merging() -> Steps[None]:
        for _, id in refs:
            yield from site.hypervisor.delete_snapshot(call.model.host, vm.domain, id)

    # the cmdlet ends when the checkpoints are gone; the merge is the host's own job
    site.hypervisor.job(vm.domain, "merge", merging())

    def steps() -> Steps[list[Item]]:
        yield 0.0
        return []

    return Work(steps())
