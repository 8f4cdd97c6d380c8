"""Switches and network adapters."""

from __future__ import annotations

from collections.abc import Iterable

from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, Work, cmdlet, none
from labs.hyperv_double.model.records import Adapter, Vm
from labs.simulated.world import frames
from labs.simulated.world.clock import Steps
from labs.simulated.world.domain import NicConfig


def our_mac(text: str) -> str:
    return ":".join(text[at : at + 2] for at in range(0, 12, 2)).lower()


def nic_of(vm: Vm, adapter: Adapter) -> NicConfig | None:
    """The world's NIC of an adapter."""
    return next((nic for nic in vm.domain.config.nics if nic.mac == adapter.mac), None)


def addresses(call: Call, vm: Vm, adapter: Adapter) -> list[str]:
    """What hv_kvp_daemon in the guest tells the host; nothing before it runs, or without it."""
    process = vm.domain.process
    guest = process.guest if process is not None else None
    if call.model.knobs.no_kvp or guest is None or not guest.answering:
        return []
    station = guest.stations.get(adapter.mac)
    return [] if station is None else [*([station.ipv4] if station.ipv4 else []), *station.ipv6]


def shown(call: Call, vm: Vm, adapter: Adapter) -> Item:
    """An adapter as Get-VMNetworkAdapter shows it."""
    return Item(
        "Adapter",
        (vm, adapter),
        {
            "Id": f"Microsoft:{vm.id.upper()}\\{adapter.id.upper()}",
            "Name": adapter.name,
            "VMId": vm.id,
            "VMName": vm.name,
            "MacAddress": adapter.mac.replace(":", "").upper() or "000000000000",
            "DynamicMacAddressEnabled": not adapter.mac,
            "SwitchName": adapter.switch or None,
            "Connected": bool(adapter.switch),
            "MacAddressSpoofing": adapter.spoofing,
            "DhcpGuard": adapter.dhcp_guard,
            "RouterGuard": adapter.router_guard,
            "IPAddresses": addresses(call, vm, adapter),
            "VlanSetting": {"OperationMode": "Access" if adapter.vlan else "Untagged", "AccessVlanId": adapter.vlan},
            "IsLegacy": False,
        },
    )


def apply(call: Call, vm: Vm, adapter: Adapter) -> None:
    """Bring the world's NIC to what the adapter says: its segment, its cable, its guard."""
    nic = nic_of(vm, adapter)
    if nic is None:
        return
    site = call.model.site
    segment = site.segments.get((adapter.switch, adapter.vlan))
    moved = segment is not None and segment != nic.network
    nic.network = segment or nic.network
    nic.link = segment is not None
    guarded = adapter.spoofing == "Off"
    changed = moved or nic.guard != guarded
    nic.guard = guarded
    process = vm.domain.process
    if process is None or nic.mac not in process.vifs:
        return
    if changed:
        process.unplug(nic.mac)
        process.plug(nic)
    process.vifs[nic.mac].port.link = nic.link


@cmdlet("Get-VMSwitch", "Name", "SwitchType")
def get_vm_switch(call: Call) -> Iterable[Item]:
    """The switches of the host."""
    names = dict.fromkeys(switch for switch, _ in call.model.site.segments)
    return [
        Item("Switch", name, {"Name": name, "SwitchType": "External", "Notes": ""})
        for name in names
        if not call.has("Name") or name.casefold() == call.text("Name").casefold()
    ]


def _switch(call: Call) -> str:
    wanted = call.text("SwitchName")
    for switch, _ in call.model.site.segments:
        if switch.casefold() == wanted.casefold():
            return switch
    raise errors.fail(
        call.name,
        "InvalidParameter",
        "ObjectNotFound",
        f'Hyper-V was unable to find a virtual switch with name "{wanted}".',
    )


@cmdlet("Get-VMNetworkAdapter", "Name", "All")
def get_vm_network_adapter(call: Call) -> Iterable[Item]:
    """The adapters of VMs, or of checkpoints."""
    for item in call.items or ():
        if item.kind == "VM":
            yield from (shown(call, item.ref, adapter) for adapter in item.ref.adapters)
        elif item.kind == "Snapshot":
            vm, id = item.ref
            yield from (shown(call, vm, adapter) for adapter in vm.checkpoints[id].adapters)
        else:
            raise errors.invalid(call.name, "The input object cannot be bound to any parameters for the command.")


@cmdlet("Add-VMNetworkAdapter", "Name", "SwitchName", "StaticMacAddress", "IsLegacy", "DeviceNaming")
def add_vm_network_adapter(call: Call) -> Iterable[Item]:
    """An adapter; to a running VM in generation 2 only."""
    site, made = call.model.site, []
    for vm in call.vms():
        domain = vm.domain
        if domain.process is not None and vm.generation == 1:
            raise errors.fail(
                call.name,
                "InvalidState",
                "InvalidOperation",
                f"'{vm.name}' cannot take a network adapter while it runs.",
            )
        if domain.job:
            raise errors.fail(call.name, "InvalidState", "InvalidOperation", f"'{vm.name}' is busy: {domain.job}.")
        switch = _switch(call) if call.has("SwitchName") else ""
        mac = our_mac(call.text("StaticMacAddress")) if call.has("StaticMacAddress") else ""
        if mac and any(known.mac == mac for known in vm.adapters):
            raise errors.invalid(call.name, f"The MAC address {mac} is used by this virtual machine already.")
        adapter = Adapter(site.world.new_uuid(), call.text("Name", "Network Adapter"), mac, switch)
        vm.adapters.append(adapter)
        if mac:
            config = domain.config
            nic = NicConfig(adapter.id, mac, next(iter(site.world.networks)), False, config.slot(), link=False)
            config.nics.append(nic)
            apply(call, vm, adapter)
            if domain.process is not None:
                domain.process.plug(nic)
                guest = domain.process.guest
                if guest is not None and guest.memory.up:
                    guest.nic_added(mac)
        made.append(shown(call, vm, adapter))
    return made if call.switch("Passthru") else none()


@cmdlet(
    "Set-VMNetworkAdapter", "StaticMacAddress", "MacAddressSpoofing", "DhcpGuard", "RouterGuard", "Name", "AllowTeaming"
)
def set_vm_network_adapter(call: Call) -> Iterable[Item]:
    """Guards of an adapter's port."""
    for vm, adapter in call.refs("Adapter"):
        adapter.spoofing = call.text("MacAddressSpoofing", adapter.spoofing)
        adapter.dhcp_guard = call.text("DhcpGuard", adapter.dhcp_guard)
        adapter.router_guard = call.text("RouterGuard", adapter.router_guard)
        apply(call, vm, adapter)
    return list(call.items or ()) if call.switch("Passthru") else none()


@cmdlet("Set-VMNetworkAdapterVlan", "Access", "VlanId", "Untagged", "Trunk", "AllowedVlanIdList", "NativeVlanId")
def set_vm_network_adapter_vlan(call: Call) -> Iterable[Item]:
    """The VLAN of an adapter's port: access, or untagged."""
    for vm, adapter in call.refs("Adapter"):
        if call.switch("Access"):
            vlan = call.number("VlanId")
            if not 1 <= vlan <= 4094:
                raise errors.invalid(call.name, f"{vlan} is no VLAN.")
            adapter.vlan = vlan
        elif call.switch("Untagged"):
            adapter.vlan = 0
        else:
            raise errors.invalid(call.name, "the model knows access and untagged ports")
        apply(call, vm, adapter)
    return list(call.items or ()) if call.switch("Passthru") else none()


@cmdlet("Get-VMNetworkAdapterVlan")
def get_vm_network_adapter_vlan(call: Call) -> Iterable[Item]:
    """The VLAN settings of adapters."""
    return [
        Item("Vlan", ref, {"OperationMode": "Access" if ref[1].vlan else "Untagged", "AccessVlanId": ref[1].vlan})
        for ref in call.refs("Adapter")
    ]


@cmdlet("Connect-VMNetworkAdapter", "SwitchName")
def connect_vm_network_adapter(call: Call) -> Iterable[Item]:
    """Plugs the cable in."""
    for vm, adapter in call.refs("Adapter"):
        adapter.switch = _switch(call)
        apply(call, vm, adapter)
    return none()


@cmdlet("Disconnect-VMNetworkAdapter")
def disconnect_vm_network_adapter(call: Call) -> Iterable[Item]:
    """Pulls the cable; the adapter forgets its switch."""
    for vm, adapter in call.refs("Adapter"):
        adapter.switch = ""
        apply(call, vm, adapter)
    return none()


@cmdlet("Remove-VMNetworkAdapter")
def remove_vm_network_adapter(call: Call) -> Iterable[Item] | Work:
    """Takes an adapter away; from a running VM in generation 2 only, once the guest lets go."""
    refs: list[tuple[Vm, Adapter]] = call.refs("Adapter")
    if not refs:
        return none()
    running = [vm for vm, _ in refs if vm.domain.process is not None]
    if any(vm.generation == 1 for vm in running):
        raise errors.fail(call.name, "InvalidState", "InvalidOperation", "The virtual machine runs.")

    def steps() -> Steps[list[Item]]:
        for vm, adapter in refs:
            nic = nic_of(vm, adapter)
            if nic is not None:
                yield from call.model.site.hypervisor.detach_nic(vm.domain, nic.id)
            vm.adapters.remove(adapter)
        return []

    return Work(steps(), refs[0][0].domain if running else None, "unplug")


@cmdlet("Get-NetNeighbor", "LinkLayerAddress", "IPAddress", module="nettcpip")
def get_net_neighbor(call: Call) -> Iterable[Item]:
    """The host's neighbour table: every guest that has spoken on a network of the host's own."""
    if not call.model.knobs.neighbours:
        return
    for network in call.model.site.world.networks.values():
        for mac, address in network.leases.items():
            link = mac.replace(":", "-").upper()
            for each in (address, f"{frames.link_local(mac)}%4"):
                yield Item("Neighbor", None, {"IPAddress": each, "LinkLayerAddress": link, "State": "Reachable"})
