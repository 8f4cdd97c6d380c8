"""Power: started, stopped, reset, paused, saved."""

from __future__ import annotations

from collections.abc import Iterable

from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, Work, cmdlet, none
from labs.hyperv_double.model.records import Vm
from labs.hyperv_double.model.vms import shown, state_of
from labs.simulated.world.clock import Steps
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.hypervisor import ASKING

GUEST_S = 300.0
"""How long Stop-VM waits for the guest."""


def require(call: Call, vm: Vm, *states: str) -> None:
    """The module's refusal in any other state."""
    if state_of(vm) not in states:
        raise errors.fail(
            call.name,
            "InvalidState",
            "InvalidOperation",
            f"'{vm.name}' failed to change state. The operation cannot be performed while the virtual machine is in its"
            " current state.",
            exception="Microsoft.HyperV.PowerShell.VirtualizationException",
        )


def one(call: Call) -> Vm:
    vms = call.vms()
    if len(vms) != 1:
        raise errors.invalid(call.name, "the model changes the power of one VM at a time")
    return vms[0]


@cmdlet("Start-VM")
def start_vm(call: Call) -> Work:
    """Powers on, or goes on from a saved state. A running VM is left alone, with a warning."""
    vm, site = one(call), call.model.site

    def steps() -> Steps[list[Item]]:
        if state_of(vm) in ("Running", "Starting") and vm.domain.process is not None:
            call.warnings.append("The virtual machine is already in the specified state.")
            return []
        for disk in vm.domain.config.disks:
            if call.model.host.files.get(disk.path) is None:
                raise HypervisorError("no-file", f"'{vm.name}' failed to start: '{disk.path}' is not there")
        yield from site.hypervisor.start(call.model.host, vm.domain)
        return [shown(site, vm)]

    if state_of(vm) == "Paused":
        require(call, vm)
    return Work(steps(), vm.domain, "start")


@cmdlet("Stop-VM", "TurnOff", "Save")
def stop_vm(call: Call) -> Iterable[Item] | Work:
    """Asks the guest, with ``-Force`` for five minutes only; ``-TurnOff`` cuts the power, ``-Save`` saves."""
    vm, site = one(call), call.model.site
    if call.switch("Save"):
        return save_vm(call)
    if state_of(vm) == "Off":
        call.warnings.append("The virtual machine is already in the specified state.")
        return none()
    if call.switch("TurnOff"):
        if vm.domain.job and vm.domain.job not in ASKING:
            require(call, vm)
        require(call, vm, "Running", "Paused")
        site.hypervisor.end_job(vm.domain, ASKING)
        site.hypervisor.destroy(vm.domain)
        return none()
    require(call, vm, "Running")

    def steps() -> Steps[list[Item]]:
        try:
            yield from site.hypervisor.ask_guest(vm.domain, reboot=False, grace_s=GUEST_S)
        except HypervisorError as error:
            if not call.switch("Force") or error.code != "guest-refused":
                raise
            site.hypervisor.destroy(vm.domain)
        return []

    return Work(steps(), vm.domain, "stop")


@cmdlet("Restart-VM", "Wait", "For", "Timeout", "Delay")
def restart_vm(call: Call) -> Iterable[Item]:
    """Resets the machine; the guest is not asked."""
    vm = one(call)
    require(call, vm, "Running", "Paused")
    call.model.site.hypervisor.end_job(vm.domain, ASKING)
    if vm.domain.job:
        raise HypervisorError("busy", f"'{vm.name}' is busy with: {vm.domain.job}")
    call.model.site.hypervisor.reset(vm.domain)
    return none()


@cmdlet("Suspend-VM")
def suspend_vm(call: Call) -> Iterable[Item]:
    """Stops the virtual processors."""
    vm = one(call)
    require(call, vm, "Running")
    if vm.domain.job:
        raise HypervisorError("busy", f"'{vm.name}' is busy with: {vm.domain.job}")
    call.model.site.hypervisor.pause(vm.domain)
    return none()


@cmdlet("Resume-VM")
def resume_vm(call: Call) -> Iterable[Item]:
    """Lets the virtual processors go on."""
    vm = one(call)
    require(call, vm, "Paused")
    call.model.site.hypervisor.resume(vm.domain)
    return none()


@cmdlet("Save-VM")
def save_vm(call: Call) -> Work:
    """Memory goes to the runtime file, and the worker process ends."""
    vm, site = one(call), call.model.site
    require(call, vm, "Running", "Paused")

    def steps() -> Steps[list[Item]]:
        yield from site.hypervisor.suspend(call.model.host, vm.domain)
        return []

    return Work(steps(), vm.domain, "suspend")


@cmdlet("Remove-VMSavedState")
def remove_vm_saved_state(call: Call) -> Iterable[Item]:
    """Throws a saved state away: the VM is off."""
    for vm in call.vms():
        require(call, vm, "Saved")
        call.model.site.hypervisor.forget_state(call.model.host, vm.domain)
    return none()
