"""Delete: gone everywhere, from any state, and nothing of it or of anybody else's is left or taken."""

from __future__ import annotations

from contextlib import suppress

import pytest

from conformance.driver import Driver, Pause, Snapshots, Suspend
from conformance.errors import DriverError, NotFound
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import DATA, Machine, Machines
from conformance.model import MIB, Capability, StopMode
from conformance.observers.host import Entry, Inventory, Kind

requirement = pytest.mark.requirement


@pytest.fixture
def hosts(observers: Observers, lab: LabInventory) -> HostsView:
    return HostsView(observers, lab)


class HostsView:
    """All hosts of the lab as one inventory."""

    def __init__(self, observers: Observers, lab: LabInventory) -> None:
        self._probes = [observers.host(host.name) for host in lab.hosts]

    def inventory(self, *kinds: Kind) -> Inventory:
        entries = frozenset[Entry]().union(*(probe.inventory() for probe in self._probes))
        return frozenset(entry for entry in entries if not kinds or entry.kind in kinds)


def states(driver: Driver, machines: Machines) -> dict[str, Machine]:
    """A machine in each state that this target can bring one to."""
    capabilities = driver.capabilities()
    made = {"stopped": machines.create(), "running": machines.boot()}
    if Capability.PAUSE in capabilities:
        made["paused"] = machines.boot()
        driver.facet(Pause).pause(made["paused"].id).wait()
    if Capability.SUSPEND in capabilities:
        made["suspended"] = machines.boot()
        driver.facet(Suspend).suspend(made["suspended"].id).wait()
    if Capability.SNAPSHOT_DISK in capabilities:
        made["with a snapshot"] = machines.boot()
        driver.facet(Snapshots).snapshot(made["with a snapshot"].id, "s1").wait()
    made["hung"] = machines.boot()
    made["hung"].guest.hang()
    return made


@requirement("del.gone-everywhere")
def test_del_gone_everywhere(driver: Driver, machines: Machines, machine: Machine) -> None:
    assert machine.domains()

    driver.delete(machine.id).wait()

    assert not machine.domains()
    assert machine.id not in driver.list()
    with pytest.raises(NotFound):
        driver.get(machine.id)
    with pytest.raises(NotFound):
        driver.find(machine.spec.name)
    assert machines.tag in machine.spec.name


@requirement("del.idempotent")
def test_del_idempotent(driver: Driver, machines: Machines) -> None:
    machine = machines.create()
    driver.delete(machine.id).wait()

    for _ in range(2):
        try:
            driver.delete(machine.id).wait()
        except DriverError as refusal:
            assert isinstance(refusal, NotFound)


@requirement("del.from-any-state")
def test_del_from_any_state(driver: Driver, machines: Machines, hosts: HostsView) -> None:
    before = hosts.inventory()
    made = states(driver, machines)
    assert hosts.inventory() != before

    for state, machine in made.items():
        driver.delete(machine.id).wait()
        assert not machine.domains(), f"deleted while {state}"

    assert hosts.inventory() == before


@requirement("del.no-disk-leak")
def test_del_no_disk_leak(driver: Driver, machines: Machines, hosts: HostsView) -> None:
    before = hosts.inventory(Kind.FILE)
    machine = machines.boot()
    machine.guest.write_pattern(DATA, 0, MIB, seed=501)
    assert hosts.inventory(Kind.FILE) != before

    driver.delete(machine.id).wait()

    assert hosts.inventory(Kind.FILE) == before


@requirement("del.no-net-leak")
def test_del_no_net_leak(driver: Driver, machines: Machines, hosts: HostsView) -> None:
    kinds = (Kind.INTERFACE, Kind.RULE, Kind.PORT)
    before = hosts.inventory(*kinds)
    machine = machines.boot(nics=(machines.nic(), machines.nic()))
    assert hosts.inventory(*kinds) != before

    driver.delete(machine.id).wait()

    assert hosts.inventory(*kinds) == before


@requirement("del.no-lock-leak")
def test_del_no_lock_leak(driver: Driver, machines: Machines, hosts: HostsView) -> None:
    before = hosts.inventory(Kind.MOUNT, Kind.FILE)
    for _ in range(2):
        driver.delete(machines.create().id).wait()

    assert hosts.inventory(Kind.MOUNT, Kind.FILE) == before


@requirement("del.no-process-leak")
def test_del_no_process_leak(driver: Driver, machines: Machines, hosts: HostsView) -> None:
    before = hosts.inventory(Kind.PROCESS)
    machine = machines.boot()
    assert hosts.inventory(Kind.PROCESS) != before

    driver.delete(machine.id).wait()

    assert hosts.inventory(Kind.PROCESS) == before


@requirement("del.keeps-shared")
def test_del_keeps_shared(driver: Driver, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=502)
    image, probe = machines.image, machine.probe()

    driver.delete(machines.boot().id).wait()

    assert probe.file_hash(str(image.path)) == image.sha256
    assert machine.guest.hash_disk(DATA, 0, MIB) == written


@requirement("del.name-reusable")
def test_del_name_reusable(driver: Driver, machines: Machines, machine: Machine) -> None:
    old = machine.guest.write_pattern(DATA, 0, MIB, seed=503)
    driver.delete(machine.id).wait()

    again = machines.boot(name=machine.spec.name)

    assert again.guest.hash_disk(DATA, 0, MIB) != old
    assert again.guest.boot().boots == 1


@requirement("del.data-not-readable")
def test_del_data_not_readable(driver: Driver, machines: Machines, machine: Machine) -> None:
    zeros = machine.guest.hash_disk(DATA, 0, 4 * MIB)
    assert machine.guest.write_pattern(DATA, 0, 4 * MIB, seed=504) != zeros
    driver.delete(machine.id).wait()

    assert machines.boot().guest.hash_disk(DATA, 0, 4 * MIB) == zeros


@requirement("del.path-traversal-safe")
def test_del_path_traversal_safe(driver: Driver, machines: Machines, machine: Machine, hosts: HostsView) -> None:
    before = hosts.inventory()
    for odd in ("../../../../tmp/hvconform", "/etc/hvconform", "..", "a/../b", "a\x00b", "a\nb"):
        name = f"{odd}{machines.name()}"
        with suppress(DriverError):
            driver.delete(machines.create(name=name).id).wait()
        for id in (odd, name):
            with pytest.raises(NotFound):
                driver.stop(id, StopMode.FORCE).wait()
    assert hosts.inventory() == before
    assert machine.guest.answers()
