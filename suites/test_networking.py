"""Networking: what the guest was promised reaches it and the wire, and what was forbidden reaches neither."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from conformance.driver import Driver, Nics
from conformance.errors import DriverError, LabError, NotFound
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import Machine, Machines
from conformance.model import NicSpec, RebootMode, StopMode
from conformance.observers.frames import BROADCAST, arp_claim, udp
from conformance.observers.host import Kind
from conformance.waiting import holds_for, until
from suites.wire import IP_UDP_HEADERS, forged_mac, passes, seen, silent, token, wait_echo, wait_ping

requirement = pytest.mark.requirement

JUMBO = 9000


@requirement("net.l2-reach")
def test_net_l2_reach(machines: Machines, lab: LabInventory) -> None:
    here, there = lab.hosts[0].name, lab.hosts[1].name
    first, same, cross = (machines.boot(host=host) for host in (here, here, there))

    for other in (same, cross):
        wait_echo(first, other.address())
        wait_echo(other, first.address())


@requirement("net.isolation-vlan")
def test_net_isolation_vlan(machines: Machines, observers: Observers, lab: LabInventory) -> None:
    own, other = (network.name for network in lab.networks[:2])
    machine, stranger = machines.boot(nics=(machines.nic(own),)), machines.boot(nics=(machines.nic(other),))
    mark, glance = token(), machine.pace.glance
    frame = udp(source_mac=machine.mac, source_ip=machine.address(), destination_ip="255.255.255.255", payload=mark)

    with observers.peer(own).sniff() as inside, observers.peer(other).sniff() as outside:
        machine.guest.send_frame(machine.mac, frame)
        until("the broadcast on its own network", lambda: seen(inside, mark), seconds=machine.pace.settle)
        holds_for(
            "the other network, out of reach,",
            lambda: (
                not machine.guest.echo(stranger.address(), timeout_ms=round(1000 * glance)) and not seen(outside, mark)
            ),
            seconds=glance,
        )


@requirement("net.isolation-by-default")
def test_net_isolation_by_default(machines: Machines) -> None:
    talker, listener = machines.boot(), machines.boot()
    address = talker.address()
    wait_ping(talker, address)  # every switch on the way has learnt both addresses
    baseline = listener.guest.count_foreign_unicast(listener.mac, talker.mac)

    for _ in range(5):
        wait_ping(talker, address)

    assert listener.guest.count_foreign_unicast(listener.mac, talker.mac) == baseline


@requirement("net.broadcast-multicast")
def test_net_broadcast_multicast(machine: Machine) -> None:
    peer = machine.peer
    for destination in (BROADCAST, "01:00:5e:00:00:fb"):
        mark = token()
        frame = udp(
            source_mac=machine.mac,
            destination_mac=destination,
            source_ip=machine.address(),
            destination_ip="224.0.0.251",
            payload=mark,
        )
        with peer.sniff(source=machine.mac) as sniffer:
            machine.guest.send_frame(machine.mac, frame)
            until(f"the frame to {destination}", lambda s=sniffer, m=mark: seen(s, m), seconds=machine.pace.settle)  # type: ignore[misc]


@pytest.fixture
def guarded(machines: Machines) -> Machine:
    """A VM whose port drops frames with a foreign source."""
    return machines.boot(nics=(machines.nic(anti_spoof=True),))


@requirement("net.mac-spoof-blocked")
def test_net_mac_spoof_blocked(guarded: Machine, machine: Machine) -> None:
    for sender, expected in ((machine, True), (guarded, False)):
        mark = token()
        assert passes(sender, forged_mac(sender, mark), mark) is expected


@requirement("net.ip-spoof-blocked")
def test_net_ip_spoof_blocked(guarded: Machine, machine: Machine, lab: LabInventory) -> None:
    foreign = str(list(lab.networks[0].ipv4.hosts())[-3])
    for sender, expected in ((machine, True), (guarded, False)):
        mark = token()
        forged = udp(
            source_mac=sender.mac,
            destination_mac=sender.peer.mac,
            source_ip=foreign,
            destination_ip=sender.peer.ipv4,
            payload=mark,
        )
        assert passes(sender, forged, mark) is expected


@requirement("net.arp-spoof-blocked")
def test_net_arp_spoof_blocked(guarded: Machine, machine: Machine, lab: LabInventory) -> None:
    foreign = ip_address(list(lab.networks[0].ipv4.hosts())[-4])
    for sender, expected in ((machine, True), (guarded, False)):
        forged = arp_claim(source_mac=sender.mac, claimed_mac=sender.mac, claimed_ip=str(foreign))
        assert passes(sender, forged, foreign.packed) is expected


@requirement("net.dhcp-lease")
def test_net_dhcp_lease(machine: Machine, lab: LabInventory) -> None:
    network = lab.network(machine.spec.nics[0].network)
    address = machine.address()

    nic = until(
        "the guest to use its lease",
        lambda: machine.guest.nic(machine.mac),
        lambda nic: nic is not None and f"{address}/{network.ipv4.prefixlen}" in nic.addresses,
        seconds=machine.pace.settle,
    )

    assert nic is not None
    assert ip_address(address) in network.ipv4
    resolver = machine.guest.resolver()
    if network.gateway4:
        assert resolver.gateway4 == network.gateway4
    if network.dns:
        assert network.dns in resolver.dns


@requirement("net.dhcp-lease-stable")
def test_net_dhcp_lease_stable(driver: Driver, machines: Machines, machine: Machine) -> None:
    address = machine.address()

    machine.guest.renew_lease(machine.mac)
    assert machine.address() == address

    before = machine.guest.boot()
    driver.reboot(machine.id, RebootMode.SOFT).wait()
    machines.wait_new_boot(machine, before)
    wait_ping(machine, address)

    driver.stop(machine.id, StopMode.FORCE).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    wait_ping(machine, address)


@requirement("net.dhcp-other-vm-unaffected")
def test_net_dhcp_other_vm_unaffected(driver: Driver, machines: Machines, machine: Machine) -> None:
    other = machines.boot()
    address = machine.address()

    driver.delete(other.id).wait()

    machine.guest.renew_lease(machine.mac)
    assert machine.address() == address
    wait_ping(machine, address)


@requirement("net.jumbo")
def test_net_jumbo(machines: Machines, lab: LabInventory) -> None:
    jumbo = next((network for network in lab.networks if network.mtu >= JUMBO), None)
    if jumbo is None:
        raise LabError("the lab has no network with jumbo frames", hint=f"add a [[network]] with mtu = {JUMBO}")
    first, same, cross = (
        machines.boot(host=host.name, nics=(machines.nic(jumbo.name),))
        for host in (lab.hosts[0], lab.hosts[0], lab.hosts[1])
    )

    for other in (same, cross):
        wait_echo(first, other.address(), jumbo.mtu - IP_UDP_HEADERS)
        assert not first.guest.echo(other.address(), jumbo.mtu - IP_UDP_HEADERS + 1)


@requirement("net.multi-nic-order")
def test_net_multi_nic_order(driver: Driver, machines: Machines, lab: LabInventory) -> None:
    machine = machines.boot(nics=tuple(machines.nic(network.name) for network in lab.networks[:2]))

    def leases() -> dict[str, list[str]]:
        return {
            nic.mac: [str(ip_interface(address).network) for address in nic.addresses if "." in address]
            for nic in machine.guest.nics()
        }

    expected = {nic.mac: [str(lab.network(nic.network).ipv4)] for nic in machine.spec.nics}
    until("a lease on each NIC", leases, lambda found: found == expected, seconds=machine.pace.settle)

    before = machine.guest.boot()
    driver.reboot(machine.id, RebootMode.HARD).wait()
    machines.wait_new_boot(machine, before)
    until("the same leases", leases, lambda found: found == expected, seconds=machine.pace.settle)
    assert [nic.mac for nic in machine.guest.nics()] == [nic.mac for nic in machine.spec.nics]


@requirement("net.ipv6-slaac")
def test_net_ipv6_slaac(driver: Driver, machines: Machines, machine: Machine, lab: LabInventory) -> None:
    prefix = lab.network(machine.spec.nics[0].network).ipv6

    def addresses() -> list[str]:
        nic = machine.guest.nic(machine.mac)
        found = [ip_interface(address).ip for address in nic.addresses] if nic else []
        return sorted(str(address) for address in found if prefix is not None and address in prefix)

    before = until("an address of the advertised prefix", addresses, seconds=machine.pace.boot)
    wait_ping(machine, before[0])

    boot = machine.guest.boot()
    driver.reboot(machine.id, RebootMode.SOFT).wait()
    machines.wait_new_boot(machine, boot)
    until("the same address", addresses, lambda found: found == before, seconds=machine.pace.boot)


@requirement("net.link-state")
def test_net_link_state(driver: Driver, machine: Machine) -> None:
    address = machine.address()
    nic = driver.get(machine.id).nics[0].id

    def carrier() -> bool:
        found = machine.serial.nic(machine.mac)
        return found is not None and found.carrier

    assert carrier()
    driver.facet(Nics).set_link(machine.id, nic, False).wait()
    until("the guest to lose its carrier", lambda: not carrier(), seconds=machine.pace.settle)
    assert silent(machine, address)

    driver.facet(Nics).set_link(machine.id, nic, True).wait()
    until("the guest to have its carrier back", carrier, seconds=machine.pace.settle)
    wait_ping(machine, address, seconds=machine.pace.boot)


@requirement("net.host-port-cleanup")
def test_net_host_port_cleanup(driver: Driver, machines: Machines, observers: Observers, lab: LabInventory) -> None:
    probe = observers.host(lab.hosts[0].name)

    def interfaces() -> object:
        return {entry for entry in probe.inventory() if entry.kind is Kind.INTERFACE}

    before = interfaces()
    machine = machines.boot()
    assert interfaces() != before, "the probe does not see the VM's port"

    driver.stop(machine.id, StopMode.FORCE).wait()
    assert interfaces() == before
    driver.start(machine.id).wait()
    driver.delete(machine.id).wait()
    assert interfaces() == before


@pytest.fixture
def nics(driver: Driver) -> Nics:
    return driver.facet(Nics)


def plugged(machine: Machine, nics: Nics, nic: NicSpec) -> str:
    """Hot-plug a NIC and wait until the guest has it; returns the driver's id of it."""
    id = nics.attach_nic(machine.id, nic).wait()
    until("the NIC in the guest", lambda: machine.guest.nic(nic.mac), seconds=machine.pace.settle)
    return id


@requirement("nic.hotplug")
def test_nic_hotplug(nics: Nics, machines: Machines, machine: Machine, lab: LabInventory) -> None:
    nic = machines.nic(lab.networks[1].name)

    plugged(machine, nics, nic)

    assert nic.mac in machine.domain().macs
    until("the agent over the new NIC", lambda: machine.guest_on(nic).answers(), seconds=machine.pace.boot)


@requirement("nic.hotunplug")
def test_nic_hotunplug(nics: Nics, machines: Machines, machine: Machine, lab: LabInventory) -> None:
    probe = machine.probe()
    before = probe.inventory()
    nic = machines.nic(lab.networks[1].name)
    id = plugged(machine, nics, nic)
    assert probe.inventory() != before

    nics.detach_nic(machine.id, id).wait()

    assert machine.guest.nic(nic.mac) is None
    assert nic.mac not in machine.domain().macs
    assert probe.inventory() == before


@requirement("nic.hotunplug-right-one")
def test_nic_hotunplug_right_one(nics: Nics, machines: Machines, machine: Machine) -> None:
    kept, gone, also_kept = (machines.nic() for _ in range(3))
    ids = {nic.mac: plugged(machine, nics, nic) for nic in (kept, gone, also_kept)}

    nics.detach_nic(machine.id, ids[gone.mac]).wait()

    # when it has to be gone is nic.hotunplug's matter
    until("the NIC to leave the guest", lambda: machine.guest.nic(gone.mac) is None, seconds=machine.pace.settle)
    expected = {machine.mac, kept.mac, also_kept.mac}
    assert {nic.mac for nic in machine.guest.nics()} == expected
    assert set(machine.domain().macs) == expected


@requirement("nic.persist-after-reboot")
def test_nic_persist_after_reboot(
    driver: Driver, nics: Nics, machines: Machines, machine: Machine, lab: LabInventory
) -> None:
    nic = machines.nic(lab.networks[1].name)
    plugged(machine, nics, nic)

    driver.stop(machine.id, StopMode.GRACEFUL).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)

    assert {found.mac for found in machine.guest.nics()} == {machine.mac, nic.mac}


@requirement("nic.failed-attach-cleans")
def test_nic_failed_attach_cleans(nics: Nics, machines: Machines, machine: Machine) -> None:
    probe = machine.probe()
    before = probe.inventory()

    for _ in range(3):
        with pytest.raises(DriverError):
            nics.attach_nic(machine.id, NicSpec("no-such-network", machines.mac())).wait()

    assert probe.inventory() == before
    assert [nic.mac for nic in machine.guest.nics()] == [machine.mac]
    with pytest.raises(NotFound):
        nics.detach_nic(machine.id, "no-such-nic").wait()
