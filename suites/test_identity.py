"""Identity and inventory: a VM is itself wherever it is looked at, and nobody else is taken for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.driver import Driver, Migrate
from conformance.errors import DriverError, InvalidRequest, NotFound
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import Machine, Machines
from conformance.model import RebootMode, StopMode
from conformance.waiting import until

requirement = pytest.mark.requirement


@requirement("id.vm-id-stable")
def test_id_vm_id_stable(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()
    driver.reboot(machine.id, RebootMode.HARD).wait()
    machines.wait_new_boot(machine, before)
    driver.stop(machine.id, StopMode.GRACEFUL).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)

    assert driver.find(machine.spec.name) == machine.id
    assert driver.get(machine.id).uuid.lower() == machine.domain().uuid == machine.uuid


@requirement("id.smbios-uuid-stable")
def test_id_smbios_uuid_stable(driver: Driver, machines: Machines, machine: Machine) -> None:
    expected = machine.guest.identity().smbios_uuid

    before = machine.guest.boot()
    driver.reboot(machine.id, RebootMode.SOFT).wait()
    machines.wait_new_boot(machine, before)
    assert machine.guest.identity().smbios_uuid == expected

    driver.stop(machine.id, StopMode.FORCE).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.identity().smbios_uuid == expected


@requirement("id.lookup-exact")
def test_id_lookup_exact(driver: Driver, machines: Machines) -> None:
    base = machines.name()
    names = [base, base + "b", "[" + base[0] + "]" + base[1:] + "*"]
    exact, longer, _ = made = [machines.create(name=name) for name in names]

    assert [driver.find(name) for name in names] == [machine.id for machine in made]
    for near_miss in (base[:-1], base.upper(), base + "?", "*", ".*", ""):
        with pytest.raises(NotFound):
            driver.find(near_miss)

    driver.delete(exact.id).wait()

    assert longer.domains(), "deleting one VM took another with it"
    with pytest.raises(NotFound):
        driver.find(base)


@requirement("id.unique-per-host")
def test_id_unique_per_host(machines: Machines) -> None:
    several = [machines.boot() for _ in range(3)]

    domains = [machine.domain() for machine in several]
    assert len({domain.uuid for domain in domains}) == len(domains)
    assert len({mac for domain in domains for mac in domain.macs}) == sum(len(domain.macs) for domain in domains)
    paths = [path for domain in domains for path in domain.disk_paths]
    assert len(set(paths)) == len(paths)


@requirement("id.foreign-vm-untouched")
def test_id_foreign_vm_untouched(driver: Driver, machines: Machines, observers: Observers, lab: LabInventory) -> None:
    probe = observers.host(lab.hosts[0].name)
    with probe.create_canary(f"{machines.tag}-canary") as canary:
        before = probe.inventory()
        machine = machines.boot()
        assert canary.uuid not in driver.list()
        with pytest.raises(NotFound):
            driver.stop(canary.uuid, StopMode.FORCE).wait()
        with pytest.raises(NotFound):
            driver.find(canary.name)

        driver.delete(machine.id).wait()
        driver.reclaim(machine.spec.name)

        assert probe.inventory() == before


NAMES = {
    "non-ascii": "Größe-日本語",
    "emoji": "vm-😀",
    "spaces": "two words",
    "quotes": "a'b\"c",
    "wildcards": "[a]*?%",
    "dash": "-rf",
    "markup": "<vm>&amp;",
    "shell": "$(id);`id`",
    "one": "x",
    "long": "n" * 200,
}


@requirement("id.name-unicode")
def test_id_name_unicode(driver: Driver, machines: Machines) -> None:
    accepted = 0
    for odd in NAMES.values():
        name = f"{odd}{machines.name()}"
        try:
            machine = machines.create(name=name)
        except (InvalidRequest, DriverError) as refusal:
            assert isinstance(refusal, InvalidRequest), f"{name!r} was not refused but failed: {refusal}"
            continue
        accepted += 1
        assert driver.find(name) == machine.id
        assert driver.get(machine.id).name == name
        assert [domain.uuid for domain in machine.domains()] == [machine.uuid]
        driver.delete(machine.id).wait()
        assert not machine.domains()
    assert accepted


@requirement("id.name-duplicate-policy")
def test_id_name_duplicate_policy(driver: Driver, machines: Machines) -> None:
    first = machines.create()
    try:
        second = machines.create(name=first.spec.name)
    except DriverError:
        assert driver.find(first.spec.name) == first.id
        return
    assert second.id != first.id
    driver.delete(second.id).wait()
    assert first.domains()
    assert driver.get(first.id).name == first.spec.name


@requirement("state.list-equals-host")
def test_state_list_equals_host(driver: Driver, machines: Machines, observers: Observers, lab: LabInventory) -> None:
    def claimed() -> list[str]:
        return sorted(driver.get(id).uuid.lower() for id in driver.list())

    def shown(foreign: frozenset[str]) -> list[str]:
        domains = [domain for host in lab.hosts for domain in observers.host(host.name).domains()]
        return sorted({domain.uuid for domain in domains} - foreign)

    foreign = frozenset(shown(frozenset())) - frozenset(claimed())
    several = [machines.create() for _ in range(3)]
    driver.start(several[0].id).wait()
    assert {machine.uuid for machine in several} <= set(claimed())
    assert claimed() == shown(foreign)

    driver.delete(several[1].id).wait()
    assert several[1].uuid not in claimed()
    assert claimed() == shown(foreign)


@requirement("state.after-driver-restart")
def test_state_after_driver_restart(
    driver: Driver, machines: Machines, machine: Machine, reconnect: Callable[[], Driver]
) -> None:
    before = machine.guest.boot()

    again = reconnect()

    try:
        assert machine.id in again.list()
        assert again.get(machine.id) == driver.get(machine.id)
        assert again.find(machine.spec.name) == machine.id
        again.reboot(machine.id, RebootMode.HARD).wait()
    finally:
        again.close()
    assert machines.wait_new_boot(machine, before).boots == before.boots + 1


@requirement("mig.driver-dies")
def test_mig_driver_dies(driver: Driver, machine: Machine, reconnect: Callable[[], Driver]) -> None:
    """Whoever asked for the migration goes away in the middle; whoever comes next must report the truth."""
    before = machine.guest.boot()
    first = reconnect()
    migrating = first.facet(Migrate).migrate(machine.id, machine.other_host())
    first.close()

    until("the migration to end", migrating.done, seconds=machine.pace.operation)
    until(
        "exactly one VM, where the driver says it is",
        lambda: (machine.running_on(), driver.get(machine.id).host),
        lambda seen: list(seen[0]) == [seen[1]],
        seconds=machine.pace.operation,
        ignore=(DriverError,),
    )
    assert machine.guest.boot().boot_id == before.boot_id
