"""Disturbed migration: killed, cut, aborted or refused, it leaves one VM, whole, where the driver says it is."""

from __future__ import annotations

from contextlib import suppress

import pytest

from conformance.driver import Driver, Migrate, Operation
from conformance.errors import DriverError, InvalidRequest, NotFound, NotObserved, Unsupported
from conformance.lab.lab import Observers
from conformance.machine import DATA, Machine, Machines
from conformance.model import MIB, Capability, MigrateOptions, PowerState, RebootMode
from conformance.observers.host import Inventory
from conformance.waiting import until
from suites.provenances import kill_arriving
from suites.wire import wait_ping

requirement = pytest.mark.requirement
needs = pytest.mark.capability

SLOW = MigrateOptions(bandwidth_mib_s=4)
"""Slow enough for something to happen in the middle."""


@pytest.fixture
def migration(driver: Driver) -> Migrate:
    return driver.facet(Migrate)


def under_way(machine: Machine, migrating: Operation[None]) -> None:
    """Wait until a migration has begun to copy and has not ended."""
    until(
        "the migration to be under way",
        migrating.progress,
        lambda progress: progress.fraction > 0 or migrating.done(),
        seconds=machine.pace.operation,
    )
    if migrating.done():
        migrating.wait()
        raise NotObserved("the migration ended before it could be disturbed")


@requirement("mig.during-boot")
def test_mig_during_boot(driver: Driver, migration: Migrate, machines: Machines) -> None:
    machine = machines.create()
    driver.start(machine.id).wait()

    with suppress(DriverError):
        migration.migrate(machine.id, machine.other_host()).wait()

    machines.wait_up(machine)
    assert len(machine.running_on()) == 1


@requirement("mig.guest-poweroff-during")
def test_mig_guest_poweroff_during(driver: Driver, migration: Migrate, machine: Machine) -> None:
    migrating = migration.migrate(machine.id, machine.other_host(), SLOW)
    under_way(machine, migrating)

    machine.guest.power_off()

    with suppress(DriverError):
        migrating.wait()
    until("no VM process on any host", lambda: not machine.running_on(), seconds=machine.pace.operation)
    until(
        "the driver to report it stopped",
        lambda: driver.get(machine.id).power,
        lambda power: power is PowerState.STOPPED,
        seconds=machine.pace.settle,
    )


@requirement("mig.guest-reboot-during")
def test_mig_guest_reboot_during(migration: Migrate, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()
    migrating = migration.migrate(machine.id, machine.other_host(), SLOW)
    under_way(machine, migrating)

    machine.guest.reboot()

    machines.wait_new_boot(machine, before)
    with suppress(DriverError, Unsupported):
        migrating.abort()
    with suppress(DriverError):
        migrating.wait()
    assert machine.guest.wait_up().boots == before.boots + 1
    assert len(machine.running_on()) == 1


@requirement("mig.under-memory-load")
def test_mig_under_memory_load(migration: Migrate, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.dirty_ram(32)

    with suppress(DriverError):
        migration.migrate(machine.id, machine.other_host()).wait()

    machine.guest.dirty_ram(0)
    assert machine.guest.boot().boot_id == before.boot_id
    assert len(machine.running_on()) == 1


@requirement("mig.abort")
def test_mig_abort(migration: Migrate, machine: Machine, observers: Observers) -> None:
    source, target = machine.domain().host, machine.other_host()
    before, clean = machine.guest.boot(), observers.host(target).inventory()
    migrating = migration.migrate(machine.id, target, SLOW)
    under_way(machine, migrating)

    migrating.abort()

    with pytest.raises(DriverError):
        migrating.wait()
    assert machine.running_on() == [source]
    assert machine.guest.boot().boot_id == before.boot_id
    assert_clean(machine, observers, target, clean)


def assert_clean(machine: Machine, observers: Observers, host: str, clean: Inventory) -> None:
    """A host that a failed migration aimed at shows again what it showed before."""
    until(
        f"nothing of the VM left on {host}",
        lambda: sorted(observers.host(host).inventory() ^ clean),
        lambda difference: not difference,
        seconds=machine.pace.settle,
    )


@requirement("mig.target-dies")
def test_mig_target_dies(driver: Driver, migration: Migrate, machine: Machine, observers: Observers) -> None:
    source, target = machine.domain().host, machine.other_host()
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=204)
    before, clean = machine.guest.boot(), observers.host(target).inventory()
    migrating = migration.migrate(machine.id, target, SLOW)
    under_way(machine, migrating)

    kill_arriving(machine, target)

    with pytest.raises(DriverError):
        migrating.wait()
    assert machine.running_on() == [source]
    assert machine.guest.wait_up().boot_id == before.boot_id
    assert machine.guest.hash_disk(DATA, 0, MIB) == written
    assert driver.get(machine.id).host == source
    assert_clean(machine, observers, target, clean)


@requirement("mig.source-dies")
def test_mig_source_dies(driver: Driver, migration: Migrate, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=205)
    source = machine.probe()
    migrating = migration.migrate(machine.id, machine.other_host(), SLOW)
    under_way(machine, migrating)

    source.kill_vm(machine.uuid)

    with pytest.raises(DriverError):
        migrating.wait()
    until("no half copy to be left", lambda: not machine.running_on(), seconds=machine.pace.settle)
    assert driver.get(machine.id).power in {PowerState.STOPPED, PowerState.CRASHED}
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.hash_disk(DATA, 0, MIB) == written


@requirement("mig.network-cut")
def test_mig_network_cut(migration: Migrate, machine: Machine, observers: Observers) -> None:
    source, target = machine.domain().host, machine.other_host()
    before = machine.guest.boot()
    migrating = migration.migrate(machine.id, target, SLOW)
    under_way(machine, migrating)

    with observers.host(source).cut_link_to(target):
        with pytest.raises(DriverError):
            migrating.wait()
        assert machine.guest.wait_up().boot_id == before.boot_id

    until(
        "the VM to run on the source alone",
        machine.running_on,
        lambda hosts: hosts == [source],
        seconds=machine.pace.operation,
    )
    assert machine.guest.boot().boot_id == before.boot_id


@requirement("mig.failed-no-target-residue")
def test_mig_failed_no_target_residue(
    driver: Driver, migration: Migrate, machines: Machines, observers: Observers
) -> None:
    """With disks to copy, where they can be, a failure has the most to clean up."""
    copied = Capability.MIGRATE_LIVE_STORAGE in driver.capabilities()
    machine = machines.boot(storage=machines.storage(shared=not copied).name)
    target = machine.other_host()
    clean = observers.host(target).inventory()
    migrating = migration.migrate(machine.id, target, MigrateOptions(copy_storage=copied, bandwidth_mib_s=2))
    under_way(machine, migrating)

    kill_arriving(machine, target)

    with pytest.raises(DriverError):
        migrating.wait()
    assert_clean(machine, observers, target, clean)


@requirement("mig.failed-keeps-source-network")
def test_mig_failed_keeps_source_network(migration: Migrate, machine: Machine) -> None:
    target, address = machine.other_host(), machine.address()
    migrating = migration.migrate(machine.id, target, SLOW)
    under_way(machine, migrating)

    kill_arriving(machine, target)

    with pytest.raises(DriverError):
        migrating.wait()
    wait_ping(machine, address)
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=206)
    assert machine.guest.hash_disk(DATA, 0, MIB) == written


@requirement("mig.retry-after-failure")
def test_mig_retry_after_failure(migration: Migrate, machine: Machine) -> None:
    target, before = machine.other_host(), machine.guest.boot()
    migrating = migration.migrate(machine.id, target, SLOW)
    under_way(machine, migrating)
    kill_arriving(machine, target)
    with pytest.raises(DriverError):
        migrating.wait()

    migration.migrate(machine.id, target).wait()

    assert machine.running_on() == [target]
    assert machine.guest.boot().boot_id == before.boot_id


@requirement("mig.same-host-policy")
def test_mig_same_host_policy(migration: Migrate, machine: Machine) -> None:
    before, here = machine.guest.boot(), machine.domain().host

    with suppress(InvalidRequest, Unsupported):
        migration.migrate(machine.id, here).wait()

    assert machine.running_on() == [here]
    assert machine.guest.boot().boot_id == before.boot_id


@requirement("mig.wrong-target")
def test_mig_wrong_target(migration: Migrate, machine: Machine) -> None:
    before, here = machine.guest.boot(), machine.domain().host

    with pytest.raises((NotFound, InvalidRequest)):
        migration.migrate(machine.id, "no-such-host").wait()

    assert machine.running_on() == [here]
    assert machine.guest.boot().boot_id == before.boot_id


@requirement("mig.pre-check-side-effect-free")
def test_mig_pre_check_side_effect_free(
    driver: Driver, migration: Migrate, machines: Machines, machine: Machine
) -> None:
    with pytest.raises(DriverError):
        migration.migrate(machine.id, "no-such-host").wait()

    assert driver.get(machine.id).power is PowerState.RUNNING
    before = machine.guest.boot()
    driver.reboot(machine.id, RebootMode.SOFT).wait()
    assert machines.wait_new_boot(machine, before).boots == before.boots + 1


@requirement("mig.error-says-why")
def test_mig_error_says_why(migration: Migrate, machine: Machine) -> None:
    target = machine.other_host()
    migrating = migration.migrate(machine.id, target, SLOW)
    under_way(machine, migrating)
    kill_arriving(machine, target)

    with pytest.raises(DriverError) as failure:
        migrating.wait()

    assert failure.value.operation == "migrate"
    assert failure.value.message
