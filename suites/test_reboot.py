"""Reboot, stop and start: a power change happens once, for real, in the manner asked for, and loses nothing."""

from __future__ import annotations

from functools import partial

import pytest

from conformance.driver import Driver
from conformance.errors import DriverError, InvalidState, NotObserved, Timeout
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import DATA, Machine, Machines
from conformance.model import MIB, PowerState, RebootMode, StopMode
from conformance.waiting import holds_for, until
from suites.wire import silent, wait_ping

requirement = pytest.mark.requirement

MODES = (RebootMode.SOFT, RebootMode.HARD)


@requirement("reboot.soft-new-boot-id")
def test_reboot_soft_new_boot_id(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()

    driver.reboot(machine.id, RebootMode.SOFT).wait()

    after = machines.wait_new_boot(machine, before)
    assert after.boot_id != before.boot_id
    assert driver.get(machine.id).power is PowerState.RUNNING


@requirement("reboot.exactly-once")
def test_reboot_exactly_once(driver: Driver, machines: Machines, machine: Machine) -> None:
    for mode in MODES:
        before = machine.guest.boot()
        driver.reboot(machine.id, mode).wait()
        assert machines.wait_new_boot(machine, before).boots == before.boots + 1
        # a second reset would come soon after the first one, if it came
        holds_for("one boot", partial(boots_are, machine, before.boots + 1), seconds=machine.pace.glance)


def boots_are(machine: Machine, count: int) -> bool:
    return machine.guest.boot().boots == count


@requirement("reboot.soft-is-graceful")
def test_reboot_soft_is_graceful(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()

    driver.reboot(machine.id, RebootMode.SOFT).wait()

    assert machines.wait_new_boot(machine, before).clean, "the guest was not asked to shut down"


@requirement("reboot.hard-is-immediate")
def test_reboot_hard_is_immediate(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.hang()
    assert not machine.guest.answers(timeout_s=machine.pace.glance)

    driver.reboot(machine.id, RebootMode.HARD).wait()

    after = machines.wait_new_boot(machine, before)
    assert not after.clean, "a guest that hung cannot have shut down in order"
    assert after.boots == before.boots + 1


@requirement("reboot.soft-timeout-policy")
def test_reboot_soft_timeout_policy(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.ignore_power_button()

    try:
        driver.reboot(machine.id, RebootMode.SOFT).wait(machine.pace.settle)
    except Timeout:
        assert machine.guest.boot().boot_id == before.boot_id
        assert driver.get(machine.id).power is PowerState.RUNNING
    else:
        # escalating to a reset is as good an answer, if it is what happened
        assert machines.wait_new_boot(machine, before).boots == before.boots + 1


@requirement("reboot.disk-survives")
def test_reboot_disk_survives(driver: Driver, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, 4 * MIB, seed=11)

    for mode in MODES:
        before = machine.guest.boot()
        driver.reboot(machine.id, mode).wait()
        machines.wait_new_boot(machine, before)
        assert machine.guest.hash_disk(DATA, 0, 4 * MIB) == written, f"lost in the {mode} reboot"


@requirement("reboot.memory-does-not-survive")
def test_reboot_memory_does_not_survive(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.put_ram("marker", "before")
    assert machine.guest.get_ram("marker") == "before"

    driver.reboot(machine.id, RebootMode.SOFT).wait()

    machines.wait_new_boot(machine, before)
    assert machine.guest.get_ram("marker") is None


@requirement("reboot.config-survives")
def test_reboot_config_survives(driver: Driver, machines: Machines) -> None:
    machine = machines.boot(vcpus=2, nics=tuple(machines.nic(network.name) for network in machines.networks[:2]))

    def config() -> object:
        guest, domain = machine.guest, machine.domain()
        return (
            guest.cpus().online,
            guest.memory().total_kib,
            [(disk.serial, disk.size_bytes, disk.address) for disk in guest.disks()],
            [(nic.mac, nic.mtu, nic.address) for nic in guest.nics()],
            (domain.vcpus, domain.memory_mib, domain.macs, domain.disk_paths),
        )

    expected = config()
    for mode in MODES:
        before = machine.guest.boot()
        driver.reboot(machine.id, mode).wait()
        machines.wait_new_boot(machine, before)
        assert config() == expected, f"changed by the {mode} reboot"


@requirement("reboot.guest-initiated")
def test_reboot_guest_initiated(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()

    machine.guest.reboot()

    after = machines.wait_new_boot(machine, before)
    assert after.boots == before.boots + 1
    assert len(machine.running_on()) == 1
    assert driver.get(machine.id).power is PowerState.RUNNING


@requirement("reboot.guest-poweroff-detected")
def test_reboot_guest_poweroff_detected(driver: Driver, machine: Machine) -> None:
    machine.guest.power_off()

    until("the VM's process to end", lambda: not machine.running_on(), seconds=machine.pace.boot)
    until(
        "the driver to report it stopped",
        lambda: driver.get(machine.id).power,
        lambda power: power is PowerState.STOPPED,
        seconds=machine.pace.settle,
    )


@requirement("reboot.early-boot")
def test_reboot_early_boot(driver: Driver, machines: Machines) -> None:
    machine = machines.create()
    driver.start(machine.id).wait()

    driver.reboot(machine.id, RebootMode.HARD).wait()

    machines.wait_up(machine)
    assert len(machine.running_on()) == 1
    driver.stop(machine.id, StopMode.FORCE).wait()
    driver.start(machine.id).wait()
    driver.stop(machine.id, StopMode.FORCE).wait()
    assert not machine.running_on()


@requirement("stop.graceful-shutdown")
def test_stop_graceful_shutdown(driver: Driver, machines: Machines, machine: Machine) -> None:
    driver.stop(machine.id, StopMode.GRACEFUL).wait()

    assert not machine.running_on()
    driver.start(machine.id).wait()
    assert machines.wait_up(machine).clean, "the guest was not asked to shut down"


@requirement("stop.force-timeout")
def test_stop_force_timeout(driver: Driver, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.ignore_power_button()

    try:
        driver.stop(machine.id, StopMode.GRACEFUL).wait(machine.pace.settle)
    except Timeout:
        assert driver.get(machine.id).power is PowerState.RUNNING
        assert machine.guest.boot().boot_id == before.boot_id
    else:
        assert not machine.running_on(), "reported as stopped while the guest refused"


@requirement("stop.really-stopped")
def test_stop_really_stopped(driver: Driver, machine: Machine) -> None:
    address = machine.address()
    wait_ping(machine, address)

    driver.stop(machine.id, StopMode.FORCE).wait()

    assert driver.get(machine.id).power is PowerState.STOPPED
    assert not machine.running_on()
    assert silent(machine, address)


@requirement("stop.releases-runtime")
def test_stop_releases_runtime(driver: Driver, machines: Machines, observers: Observers, lab: LabInventory) -> None:
    machine = machines.create()
    probe = observers.host(lab.hosts[0].name)
    never_started = probe.inventory()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    running = probe.inventory()
    assert running != never_started, "the probe does not see a running VM"

    driver.stop(machine.id, StopMode.FORCE).wait()

    runtime = running - never_started
    assert not {entry for entry in probe.inventory() & runtime if entry.kind in {"process", "interface", "port"}}


@requirement("stop.idempotent")
def test_stop_idempotent(driver: Driver, machines: Machines) -> None:
    machine = machines.create()

    for mode in StopMode:
        try:
            driver.stop(machine.id, mode).wait()
        except InvalidState as refusal:
            assert refusal.current == PowerState.STOPPED

    assert driver.get(machine.id).power is PowerState.STOPPED
    assert not machine.running_on()


@requirement("start.same-identity")
def test_start_same_identity(driver: Driver, machines: Machines, machine: Machine) -> None:
    def identity() -> object:
        guest = machine.guest
        return (
            guest.identity().smbios_uuid,
            [nic.mac for nic in guest.nics()],
            sorted(disk.serial for disk in guest.disks()),
            machine.address(),
        )

    before = identity()

    driver.stop(machine.id, StopMode.GRACEFUL).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)

    assert identity() == before


@requirement("start.idempotent")
def test_start_idempotent(driver: Driver, machine: Machine) -> None:
    before = machine.guest.boot()

    try:
        driver.start(machine.id).wait()
    except InvalidState as refusal:
        assert refusal.current == PowerState.RUNNING

    assert machine.guest.boot().boot_id == before.boot_id
    assert len(machine.running_on()) == 1


@requirement("start.after-host-service-restart")
def test_start_after_host_service_restart(driver: Driver, machine: Machine) -> None:
    before = machine.guest.boot()

    machine.probe().restart_management()

    after = machine.guest.boot()
    assert after.boot_id == before.boot_id
    assert after.uptime_ms > before.uptime_ms
    until(
        "the driver to see the VM again",
        lambda: driver.get(machine.id).power,
        lambda power: power is PowerState.RUNNING,
        seconds=machine.pace.settle,
        ignore=(DriverError,),
    )


@requirement("fault.vm-process-killed")
def test_fault_vm_process_killed(driver: Driver, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=12)

    machine.probe().kill_vm(machine.uuid)

    until(
        "the driver to report the dead VM",
        lambda: driver.get(machine.id).power,
        lambda power: power in {PowerState.STOPPED, PowerState.CRASHED},
        seconds=machine.pace.settle,
    )
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.hash_disk(DATA, 0, MIB) == written


@requirement("fault.mgmt-daemon-killed")
def test_fault_mgmt_daemon_killed(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()

    machine.probe().restart_management()

    until(
        "the driver to answer again", lambda: driver.get(machine.id), seconds=machine.pace.settle, ignore=(DriverError,)
    )
    driver.reboot(machine.id, RebootMode.SOFT).wait()
    assert machines.wait_new_boot(machine, before).boots == before.boots + 1


@requirement("disk.flush-honoured")
def test_disk_flush_honoured(driver: Driver, machines: Machines, machine: Machine) -> None:
    slots = 64
    machine.guest.start_writer(DATA, 0, slots, interval_ms=5)
    until("the writer to get going", lambda: machine.guest.writer().acknowledged > slots, seconds=machine.pace.settle)
    acknowledged = machine.guest.writer().acknowledged

    machine.probe().kill_vm(machine.uuid)

    until("the VM's process to end", lambda: not machine.running_on(), seconds=machine.pace.settle)
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.newest_written(DATA, 0, slots) >= acknowledged


@requirement("state.out-of-band")
def test_state_out_of_band(driver: Driver, machine: Machine) -> None:
    machine.probe().stop_out_of_band(machine.uuid)

    until(
        "the driver to see what was done behind its back",
        lambda: driver.get(machine.id).power,
        lambda power: power is PowerState.STOPPED,
        seconds=machine.pace.settle,
    )
    with pytest.raises(NotObserved):
        machine.domain()  # and it was not "corrected"
