"""Pause and suspend: time stops for the guest and nothing else changes."""

from __future__ import annotations

import pytest

from conformance.driver import Driver, Pause, Suspend
from conformance.errors import InvalidState
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import DATA, Machine, Machines
from conformance.model import MIB, PowerState, RebootMode
from conformance.observers.host import Kind
from conformance.waiting import holds_for, until
from suites.wire import silent, wait_ping

requirement = pytest.mark.requirement


@requirement("pause.freezes-vcpus")
def test_pause_freezes_vcpus(driver: Driver, machine: Machine) -> None:
    address = machine.address()

    def runs_on(after: float) -> None:
        until("the vCPU time to grow", lambda: machine.domain().vcpu_seconds > after, seconds=machine.pace.settle)

    # a host may count in tenths of a second, of which an idle guest takes its time to use one
    machine.guest.dirty_ram(1)
    runs_on(machine.domain().vcpu_seconds)
    driver.facet(Pause).pause(machine.id).wait()

    frozen = machine.domain().vcpu_seconds
    holds_for(
        "the vCPU time, in silence,",
        lambda: silent(machine, address) and machine.domain().vcpu_seconds == frozen,
        seconds=machine.pace.glance,
    )
    assert machine.domain().paused

    driver.facet(Pause).resume(machine.id).wait()
    machine.guest.wait_up()
    runs_on(frozen)


@requirement("pause.same-boot-id")
def test_pause_same_boot_id(driver: Driver, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.fill_ram(8, seed=21)
    pause = driver.facet(Pause)

    pause.pause(machine.id).wait()
    assert driver.get(machine.id).power is PowerState.PAUSED
    pause.resume(machine.id).wait()

    assert machine.guest.wait_up().boot_id == before.boot_id
    assert machine.guest.ram_intact(21)
    assert driver.get(machine.id).power is PowerState.RUNNING


@requirement("pause.tcp-survives-short")
def test_pause_tcp_survives_short(driver: Driver, machine: Machine) -> None:
    pause = driver.facet(Pause)
    with machine.peer.tcp_stream(machine.address()) as stream:
        until("the stream to flow", lambda: stream.report().received > 10, seconds=machine.pace.settle)
        pause.pause(machine.id).wait()
        paused = until("the stream to stand still", lambda: stream.report(), seconds=machine.pace.settle)
        pause.resume(machine.id).wait()
        until(
            "the stream to go on", lambda: stream.report().received > paused.received + 10, seconds=machine.pace.settle
        )
        report = stream.report()

    assert not report.reset
    assert (report.lost, report.duplicates, report.corrupted) == (0, 0, 0)


@requirement("pause.idempotent")
def test_pause_idempotent(driver: Driver, machine: Machine) -> None:
    pause = driver.facet(Pause)
    pause.pause(machine.id).wait()

    try:
        pause.pause(machine.id).wait()
    except InvalidState as refusal:
        assert refusal.current == PowerState.PAUSED

    pause.resume(machine.id).wait()
    machine.guest.wait_up()
    assert not machine.domain().paused


@requirement("pause.refuses-illegal-ops")
def test_pause_refuses_illegal_ops(driver: Driver, machine: Machine) -> None:
    driver.facet(Pause).pause(machine.id).wait()

    with pytest.raises(InvalidState) as refusal:
        driver.reboot(machine.id, RebootMode.SOFT).wait()

    assert refusal.value.current == PowerState.PAUSED
    assert machine.domain().paused


@requirement("suspend.same-boot-id")
def test_suspend_same_boot_id(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.put_ram("marker", "kept")
    machine.guest.fill_ram(8, seed=22)

    driver.facet(Suspend).suspend(machine.id).wait()
    assert driver.get(machine.id).power is PowerState.SUSPENDED
    driver.start(machine.id).wait()

    assert machines.wait_up(machine).boot_id == before.boot_id
    assert machine.guest.get_ram("marker") == "kept"
    assert machine.guest.ram_intact(22)


@requirement("suspend.releases-memory")
def test_suspend_releases_memory(driver: Driver, machine: Machine) -> None:
    driver.facet(Suspend).suspend(machine.id).wait()

    assert not machine.running_on()


@requirement("suspend.state-file-removed")
def test_suspend_state_file_removed(
    driver: Driver, machines: Machines, machine: Machine, observers: Observers, lab: LabInventory
) -> None:
    def files() -> object:
        return {entry for entry in observers.host(lab.hosts[0].name).inventory() if entry.kind is Kind.FILE}

    before = files()
    driver.facet(Suspend).suspend(machine.id).wait()
    assert files() != before, "the probe does not see the state file"

    driver.start(machine.id).wait()
    machines.wait_up(machine)

    assert files() == before


@requirement("suspend.clock-resync")
def test_suspend_clock_resync(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.clocks()

    driver.facet(Suspend).suspend(machine.id).wait()
    # long enough that a clock which merely goes on is wrong by more than the tolerance
    holds_for("the VM to be suspended", lambda: not machine.running_on(), seconds=2.5, interval=0.5)
    driver.start(machine.id).wait()
    machines.wait_up(machine)

    assert machine.guest.clocks().monotonic_ns >= before.monotonic_ns
    until(
        "the guest's wall clock to be right",
        lambda: machine.wall_clock_error(),
        lambda error: error <= 2.0,
        seconds=machine.pace.boot,
    )


@requirement("suspend.network-back")
def test_suspend_network_back(driver: Driver, machines: Machines, machine: Machine) -> None:
    address = machine.address()

    driver.facet(Suspend).suspend(machine.id).wait()
    assert silent(machine, address)
    driver.start(machine.id).wait()
    machines.wait_up(machine)

    wait_ping(machine, address)
    assert machine.guest.nic(machine.mac) is not None


@requirement("suspend.devices-back")
def test_suspend_devices_back(driver: Driver, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=23)

    driver.facet(Suspend).suspend(machine.id).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)

    assert machine.guest.hash_disk(DATA, 0, MIB) == written
    again = machine.guest.write_pattern(DATA, MIB, MIB, seed=24)
    assert machine.guest.hash_disk(DATA, MIB, MIB) == again
