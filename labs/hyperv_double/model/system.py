"""Services, the firewall and the event log: what a host probe looks at and breaks."""

from __future__ import annotations

from collections.abc import Iterable

from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, cmdlet, none
from labs.hyperv_double.model.disks import FREE_BYTES
from labs.simulated.world.errors import HypervisorError

RESTART_S = 0.5
MIGRATION_PORT = "6600"
MANAGEMENT = "microsoft.powershell.management"


@cmdlet("Get-Service", "Name", module=MANAGEMENT)
def get_service(call: Call) -> Iterable[Item]:
    """The virtual machine management service."""
    state = "Running" if call.model.host.management_up else "Stopped"
    return [Item("Service", "vmms", {"Name": "vmms", "Status": state})]


@cmdlet("Restart-Service", "Name", module=MANAGEMENT)
def restart_service(call: Call) -> Iterable[Item]:
    """Its jobs die with it, its VMs go on."""
    model = call.model
    if call.text("Name").lower() != "vmms":
        raise errors.invalid(call.name, "the model restarts vmms only")
    host, clock = model.host, model.site.world.clock
    host.management_up = False
    for domain in list(host.domains.values()):
        if domain.task is not None:
            domain.task.cancel(HypervisorError("unreachable", f"the management service of {host.name} restarted"))
    clock.sleep(RESTART_S)
    host.management_up = True
    host.note("vmms restarted")
    return none()


@cmdlet(
    "New-NetFirewallRule", "Name", "DisplayName", "Direction", "Protocol", "RemotePort", "LocalPort", "RemoteAddress",
    "Action", module="netsecurity",
)  # fmt: skip
def new_net_firewall_rule(call: Call) -> Iterable[Item]:
    """A block of the migration port to or from another host of the double cuts the link between them."""
    model, name = call.model, str(call.need("Name"))
    ports = call.text("RemotePort") + call.text("LocalPort")
    if call.text("Action") != "Block" or MIGRATION_PORT not in ports:
        raise errors.invalid(call.name, "the model blocks the migration port only")
    given = call.get("RemoteAddress")
    for address in given if isinstance(given, list) else [given]:
        other = model.site.host_at(str(address))
        if other is not None:
            model.site.rules[model.name][name] = other.name
            model.host.cut_from.add(other.name)
    return none()


@cmdlet("Get-NetFirewallRule", "Name", module="netsecurity")
def get_net_firewall_rule(call: Call) -> Iterable[Item]:
    """The rules that were added."""
    rules = call.model.site.rules[call.model.name]
    return [Item("Rule", name, {"Name": name, "Enabled": "True", "Action": "Block"}) for name in rules]


@cmdlet("Remove-NetFirewallRule", "Name", module="netsecurity")
def remove_net_firewall_rule(call: Call) -> Iterable[Item]:
    """Takes a rule away."""
    model, name = call.model, str(call.need("Name"))
    rules = model.site.rules[model.name]
    if name not in rules:
        raise errors.cim_error(call.name, f"No rule '{name}'.", "CmdletizationQuery_NotFound_Name", "ObjectNotFound", 0)
    other = rules.pop(name)
    if other not in rules.values():
        model.host.cut_from.discard(other)
    return none()


@cmdlet("Test-NetConnection", "ComputerName", "Port", module="nettcpip")
def test_net_connection(call: Call) -> Iterable[Item]:
    """Whether another host takes connections; the model's hosts do unless the link is cut."""
    other = call.model.site.host_at(call.text("ComputerName"))
    reached = other is not None and other.name not in call.model.host.cut_from
    return [Item("Connection", other, {"ComputerName": call.text("ComputerName"), "TcpTestSucceeded": reached})]


@cmdlet("Get-Volume", "FilePath", module="storage")
def get_volume(call: Call) -> Iterable[Item]:
    """The free space of the volume that a path lies on."""
    space = call.model.site.space_of(call.model.host, call.text("FilePath"))
    return [
        Item("Volume", space, {"Size": 32 << 30, "SizeRemaining": 0 if space.full else FREE_BYTES, "DriveLetter": "D"})
    ]


@cmdlet("Get-WinEvent", "LogName", "MaxEvents", module="microsoft.powershell.diagnostics")
def get_win_event(call: Call) -> Iterable[Item]:
    """The hypervisor's log, newest first."""
    log = call.model.host.log
    lines = list(enumerate(log, 1))[::-1][: call.number("MaxEvents", len(log) or 1)]
    return [Item("Event", number, {"RecordId": number, "Message": line}) for number, line in lines]
