"""The error contract: a refusal has a type, comes in time and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from conformance.driver import Driver, Operation, Pause, Volumes
from conformance.errors import DriverError, InvalidRequest, InvalidState, NotFound
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import DATA, Machine, Machines
from conformance.model import MIB, Capability, NicSpec, PowerState, RebootMode, StopMode

requirement = pytest.mark.requirement
needs = pytest.mark.capability

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@requirement("err.not-found-typed")
def test_err_not_found_typed(driver: Driver) -> None:
    calls: Mapping[str, Callable[[], object]] = {
        "get": lambda: driver.get(UNKNOWN),
        "start": lambda: driver.start(UNKNOWN).wait(),
        "stop": lambda: driver.stop(UNKNOWN, StopMode.FORCE).wait(),
        "reboot": lambda: driver.reboot(UNKNOWN, RebootMode.HARD).wait(),
        "addresses": lambda: driver.addresses(UNKNOWN),
        "find": lambda: driver.find("hvconform no such name"),
        "get with an odd id": lambda: driver.get("../../etc/passwd"),
    }
    assert {name: outcome(call) for name, call in calls.items()} == dict.fromkeys(calls, "NotFound")


def outcome(call: Callable[[], object]) -> str:
    """How a call ended: the name of its typed error, or success."""
    try:
        call()
    except DriverError as error:
        return type(error).__name__
    return "success"


@requirement("err.invalid-state-typed")
def test_err_invalid_state_typed(driver: Driver, machines: Machines) -> None:
    machine = machines.create()

    with pytest.raises(InvalidState) as refusal:
        driver.reboot(machine.id, RebootMode.SOFT).wait()

    assert refusal.value.current == PowerState.STOPPED
    assert PowerState.RUNNING in refusal.value.allowed


@requirement("err.state-preserved-on-reject")
@needs(Capability.PAUSE)
def test_err_state_preserved_on_reject(driver: Driver, machines: Machines, machine: Machine) -> None:
    pause = driver.facet(Pause)
    stopped = machines.create()
    with pytest.raises(InvalidState):
        pause.pause(stopped.id).wait()
    assert driver.get(stopped.id).power is PowerState.STOPPED
    assert not stopped.running_on()

    before = machine.guest.boot()
    assert outcome(lambda: pause.resume(machine.id).wait()) in {"success", "InvalidState"}
    assert machine.guest.boot().boot_id == before.boot_id
    assert not machine.domain().paused


@requirement("err.failure-is-reported")
def test_err_failure_is_reported(driver: Driver, machines: Machines, observers: Observers, lab: LabInventory) -> None:
    storage = machines.storage(shared=False).name
    spec = machines.spec(storage=storage)

    with observers.host(lab.hosts[0].name).fill_storage(storage), pytest.raises(DriverError) as failure:
        driver.create(spec).wait()

    assert failure.value.message, "the failure does not say why"


@requirement("err.unknown-hypervisor-error-not-swallowed")
@needs(Capability.VOLUME_HOTPLUG)
def test_err_unknown_hypervisor_error_not_swallowed(driver: Driver, machines: Machines, machine: Machine) -> None:
    """A volume whose file was taken away under the driver: whatever error that gives, it must not end in success."""
    volumes = driver.facet(Volumes)
    volume = machines.volume(serial="vanished")
    before, serials = set(machine.domain().disk_paths), {disk.serial for disk in machine.guest.disks()}
    volumes.attach_volume(machine.id, volume).wait()
    (path,) = set(machine.domain().disk_paths) - before
    volumes.detach_volume(machine.id, volume).wait()

    with machine.probe().take_away(path), pytest.raises(DriverError):
        volumes.attach_volume(machine.id, volume).wait()

    assert {disk.serial for disk in machine.guest.disks()} == serials
    assert [state.attached_to for state in volumes.volumes() if state.id == volume] == [()]


@requirement("err.success-is-not-reported-as-failure")
def test_err_success_is_not_reported_as_failure(driver: Driver, machine: Machine) -> None:
    """Stopping a VM that stops by itself at the same moment is a success: it is stopped."""
    machine.guest.power_off()

    try:
        driver.stop(machine.id, StopMode.FORCE).wait()
    except InvalidState as refusal:
        assert refusal.current == PowerState.STOPPED

    assert not machine.running_on()
    assert driver.get(machine.id).power is PowerState.STOPPED


@requirement("err.cause-preserved")
def test_err_cause_preserved(driver: Driver, machines: Machines) -> None:
    spec = machines.spec(nics=(NicSpec("no-such-network", machines.mac()),))

    with pytest.raises((InvalidRequest, NotFound)) as failure:
        driver.create(spec).wait()

    assert "no-such-network" in str(failure.value)


@requirement("err.idempotent-repeat")
def test_err_idempotent_repeat(driver: Driver, machine: Machine) -> None:
    starts = {outcome(lambda: driver.start(machine.id).wait()) for _ in range(3)}
    driver.stop(machine.id, StopMode.FORCE).wait()
    stops = {outcome(lambda: driver.stop(machine.id, StopMode.FORCE).wait()) for _ in range(3)}

    assert starts in ({"success"}, {"InvalidState"})
    assert stops in ({"success"}, {"InvalidState"})


@requirement("err.no-secret-in-error")
def test_err_no_secret_in_error(driver: Driver, lab: LabInventory) -> None:
    secrets = [
        str(value)
        for target in lab.targets
        for key, value in target.options.items()
        if any(word in key for word in ("password", "secret", "token"))
    ]

    with pytest.raises(NotFound) as failure:
        driver.get(UNKNOWN)

    assert not [secret for secret in secrets if secret in repr(failure.value) or secret in str(failure.value)]


@requirement("conc.same-vm-two-ops")
def test_conc_same_vm_two_ops(driver: Driver, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()
    operations: list[Operation[None]] = []
    refusals = [outcome(lambda: operations.append(driver.reboot(machine.id, RebootMode.HARD))) for _ in range(2)]
    outcomes = [*filter("success".__ne__, refusals), *(outcome(operation.wait) for operation in operations)]

    assert "success" in outcomes
    assert set(outcomes) <= {"success", "Busy", "InvalidState"}
    after = machines.wait_new_boot(machine, before)
    assert before.boots < after.boots <= before.boots + outcomes.count("success")
    assert len(machine.running_on()) == 1


@requirement("conc.busy-clears")
def test_conc_busy_clears(driver: Driver, machines: Machines, machine: Machine) -> None:
    machine.guest.ignore_power_button()
    with pytest.raises(DriverError):
        driver.stop(machine.id, StopMode.GRACEFUL).wait(machine.pace.glance)

    driver.stop(machine.id, StopMode.FORCE).wait()

    driver.start(machine.id).wait()
    machines.wait_up(machine)


@requirement("conc.different-vms")
def test_conc_different_vms(driver: Driver, machines: Machines) -> None:
    several = [machines.create() for _ in range(3)]

    for starting in [driver.start(machine.id) for machine in several]:
        starting.wait()

    for number, machine in enumerate(several):
        machines.wait_up(machine)
        machine.guest.write_pattern(DATA, 0, MIB, seed=400 + number)
    assert len({machine.guest.hash_disk(DATA, 0, MIB) for machine in several}) == len(several)
    assert [machine.guest.identity().smbios_uuid for machine in several] == [machine.uuid for machine in several]
    assert [[nic.mac for nic in machine.guest.nics()] for machine in several] == [[m.mac] for m in several]
