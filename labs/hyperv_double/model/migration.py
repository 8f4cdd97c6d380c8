"""Migration between the hosts of the double, with its rules about logins and what the target lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, Work, cmdlet, none
from labs.hyperv_double.model.power import one, require
from labs.hyperv_double.model.records import Vm
from labs.hyperv_double.model.site import Site
from labs.simulated.world.clock import Steps
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host

MIB_BITS = 8 << 20


def _target(call: Call) -> Host:
    """The host that is meant; raises what an unreachable one gives."""
    site, address = call.model.site, call.text("DestinationHost")
    host = site.host_at(address)
    if host is None:
        raise HypervisorError("unreachable", f"The destination host '{address}' could not be contacted")
    if host.name == call.model.name:
        raise errors.invalid(call.name, "The virtual machine is on this host already.")
    return host


def _authorised(call: Call, target: Host) -> None:
    """The second hop. With CredSSP the caller's own credentials have to be here; Kerberos needs delegation."""
    site, session = call.model.site, call.session
    for name in (call.model.name, target.name):
        knobs = site.knobs[name]
        if not knobs.migration_enabled:
            raise errors.fail(
                call.name, "OperationFailed", "NotSpecified", f"Virtual machine migrations are not enabled on '{name}'."
            )
    mine = call.model.knobs
    passed_on = session.delegated if mine.migration_authentication == "CredSSP" else mine.constrained_delegation
    if mine.no_credentials or not passed_on:
        raise HypervisorError(
            "no-credentials",
            f"Failed to establish a connection with host '{target.name}': No credentials are available in the security "
            "package",
        )


def _incompatibilities(call: Call, vm: Vm, target: Host) -> list[dict[str, Any]]:
    """What the target lacks, as Compare-VM reports it."""
    found = []
    if not call.switch("IncludeStorage"):
        found += [
            {"MessageId": 40010, "Message": f"Virtual machine storage '{disk.path}' is not found on '{target.name}'"}
            for disk in vm.domain.config.disks
            if target.files.get(disk.path) is None
        ]
    if vm.domain.process is not None and target.used_mib() + vm.domain.config.memory_mib > target.memory_mib:
        found.append({"MessageId": 33000, "Message": f"'{target.name}' has not enough memory"})
    return found


@cmdlet("Compare-VM", "DestinationHost", "IncludeStorage", "DestinationStoragePath")
def compare_vm(call: Call) -> Iterable[Item]:
    """What speaks against a migration; nothing is changed."""
    vm, target = one(call), _target(call)
    _authorised(call, target)
    found = _incompatibilities(call, vm, target)
    return [Item("Report", vm, {"VM": {"Id": vm.id, "Name": vm.name}, "Incompatibilities": found})]


@cmdlet("Move-VM", "DestinationHost", "IncludeStorage", "DestinationStoragePath", "RemoveSourceUnmanagedVhds")
def move_vm(call: Call) -> Work:
    """Moves a VM, running or off. On any failure it stays where it was."""
    vm, site = one(call), call.model.site
    require(call, vm, "Running", "Paused", "Off")
    folder = call.text("DestinationStoragePath") if call.switch("IncludeStorage") else ""
    work = Work(iter(()), vm.domain, "migrate")  # type: ignore[arg-type]  # its steps need it, to say how far they are

    def progressed(fraction: float, _phase: str) -> None:
        work.percent = round(fraction * 100)

    def steps() -> Steps[list[Item]]:
        target = _target(call)
        _authorised(call, target)
        if found := _incompatibilities(call, vm, target):
            raise HypervisorError("bad-request", f"The virtual machine cannot be moved: {found[0]['Message']}")
        if target.used_mib() + vm.domain.config.memory_mib > target.memory_mib and vm.domain.process is not None:
            raise HypervisorError("no-memory", f"'{target.name}' has not enough memory")
        storage = site.storage_of(folder) if folder else ""
        if folder:
            site.hypervisor.folders[vm.domain.config.uuid] = folder
        try:
            yield from site.hypervisor.migrate(
                call.model.host,
                vm.domain,
                target,
                target_storage=storage,
                bandwidth_mib_s=_throttle(site, call.model.name),
                progressed=progressed,
            )
        finally:
            site.hypervisor.folders.pop(vm.domain.config.uuid, None)
        return []

    work.steps = steps()
    return work


# the host's own throttle


def _throttle(site: Site, host: str) -> int:
    rates = site.policies[host].values()
    return min(rates) // MIB_BITS if rates else 0


@cmdlet("New-NetQosPolicy", "Name", "LiveMigration", "ThrottleRateActionBitsPerSecond", module="netqos")
def new_net_qos_policy(call: Call) -> Iterable[Item]:
    """A throttle for a kind of traffic; the model knows live migration's."""
    name = str(call.need("Name"))
    if not call.switch("LiveMigration"):
        raise errors.invalid(call.name, "the model throttles live migration only")
    policies = call.model.site.policies[call.model.name]
    if name in policies:
        raise errors.cim_error(
            call.name, f"The policy '{name}' exists.", "HRESULT 0x800700b7", "ResourceExists", 0x800700B7
        )
    policies[name] = call.number("ThrottleRateActionBitsPerSecond")
    return none()


@cmdlet("Get-NetQosPolicy", "Name", module="netqos")
def get_net_qos_policy(call: Call) -> Iterable[Item]:
    """The throttles of the host."""
    return [
        Item("Policy", name, {"Name": name, "ThrottleRate": rate})
        for name, rate in call.model.site.policies[call.model.name].items()
    ]


@cmdlet("Remove-NetQosPolicy", "Name", module="netqos")
def remove_net_qos_policy(call: Call) -> Iterable[Item]:
    """Takes a throttle away."""
    policies = call.model.site.policies[call.model.name]
    name = str(call.need("Name"))
    if name not in policies:
        raise errors.cim_error(
            call.name, f"No policy '{name}'.", "CmdletizationQuery_NotFound_Name", "ObjectNotFound", 0
        )
    del policies[name]
    return none()
