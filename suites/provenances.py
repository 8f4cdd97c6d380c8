"""How a VM came to its steady state. The steady checks of the contract are run on each of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from conformance.driver import Clone, Driver, Migrate, Pause, Resize, Snapshots, Suspend
from conformance.errors import DriverError, NotObserved, Unsupported
from conformance.machine import DATA, DATA_BYTES, Machine, Machines
from conformance.model import DiskSpec, MigrateOptions, RebootMode, StopMode, VmSpec
from conformance.waiting import until

SECOND_DATA = "data1"
SECOND_DATA_BYTES = 24 * 1024 * 1024
STEADY_VCPUS = 2
STEADY_MEMORY_MIB = 160
PATTERN_BYTES = 4096
RESERVED_KIB = 72 * 1024
"""What a guest kernel may keep for itself of the RAM it is given."""


@dataclass(frozen=True, slots=True)
class Steady:
    """A VM in its steady state, and the SHA-256 of what was written to the start of each disk on the way there."""

    machine: Machine
    patterns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a step may use. `reconnect` makes a second driver for the same target."""

    driver: Driver
    machines: Machines
    reconnect: Callable[[], Driver]


Step = Callable[[Stage, Machine], Machine]


def steady_spec(machines: Machines) -> VmSpec:
    """A VM with two of everything, so that a mix-up has something to mix up."""
    nics = tuple(machines.nic(network.name) for network in machines.networks[:2])
    disks = (DiskSpec(DATA_BYTES, DATA), DiskSpec(SECOND_DATA_BYTES, SECOND_DATA))
    return machines.spec(vcpus=STEADY_VCPUS, memory_mib=STEADY_MEMORY_MIB, nics=nics, disks=disks)


def bring(provenance: str, stage: Stage) -> Steady:
    """A new VM in the steady state of this provenance."""
    machine = stage.machines.boot(steady_spec(stage.machines))
    patterns = {
        serial: machine.guest.write_pattern(serial, 0, PATTERN_BYTES, seed)
        for seed, serial in enumerate((DATA, SECOND_DATA), 600)
    }
    return Steady(STEPS[provenance](stage, machine), patterns)


def _booted(stage: Stage, machine: Machine) -> Machine:  # noqa: ARG001 - nothing happens to it
    return machine


def _rebooted(mode: RebootMode) -> Step:
    def step(stage: Stage, machine: Machine) -> Machine:
        before = machine.guest.boot()
        stage.driver.reboot(machine.id, mode).wait()
        stage.machines.wait_new_boot(machine, before)
        return machine

    return step


def _started(stage: Stage, machine: Machine) -> Machine:
    stage.driver.start(machine.id).wait()
    stage.machines.wait_up(machine)
    return machine


def _stop_started(stage: Stage, machine: Machine) -> Machine:
    stage.driver.stop(machine.id, StopMode.GRACEFUL).wait()
    return _started(stage, machine)


def _paused_resumed(stage: Stage, machine: Machine) -> Machine:
    pause = stage.driver.facet(Pause)
    pause.pause(machine.id).wait()
    pause.resume(machine.id).wait()
    stage.machines.wait_up(machine)
    return machine


def _suspended_resumed(stage: Stage, machine: Machine) -> Machine:
    stage.driver.facet(Suspend).suspend(machine.id).wait()
    return _started(stage, machine)


def _reverted(stage: Stage, machine: Machine) -> Machine:
    snapshots = stage.driver.facet(Snapshots)
    snapshot = snapshots.snapshot(machine.id, "steady", memory=True).wait()
    snapshots.revert(machine.id, snapshot).wait()
    stage.machines.wait_up(machine)
    return machine


def _resized(stage: Stage, machine: Machine) -> Machine:
    """Away from the size that the steady checks expect, and back to it: both resizes must have been carried out."""
    stage.driver.stop(machine.id, StopMode.GRACEFUL).wait()
    resize = stage.driver.facet(Resize)
    resize.resize(machine.id, vcpus=STEADY_VCPUS - 1, memory_mib=STEADY_MEMORY_MIB - 32).wait()
    resize.resize(machine.id, vcpus=STEADY_VCPUS, memory_mib=STEADY_MEMORY_MIB).wait()
    return _started(stage, machine)


def _migrated(stage: Stage, machine: Machine) -> Machine:
    stage.driver.facet(Migrate).migrate(machine.id, machine.other_host()).wait()
    stage.machines.wait_up(machine)
    return machine


def _migrated_twice(stage: Stage, machine: Machine) -> Machine:
    return _migrated(stage, _migrated(stage, machine))


def kill_arriving(machine: Machine, target: str) -> None:
    """Kill what a migration under way has made on its target, as soon as there is something to kill."""
    until("the VM to arrive", machine.running_on, lambda hosts: target in hosts, seconds=machine.pace.operation)
    machine.probe_on(target).kill_vm(machine.uuid)


def _migration_failed(stage: Stage, machine: Machine) -> Machine:
    here, target = machine.running_on(), machine.other_host()
    slowly = MigrateOptions(bandwidth_mib_s=1)
    with suppress(DriverError):
        migrating = stage.driver.facet(Migrate).migrate(machine.id, target, slowly)
        try:
            migrating.abort()
        except Unsupported:
            kill_arriving(machine, target)
        migrating.wait()
    if machine.running_on() != here:
        raise NotObserved("the migration that was to fail did not")
    stage.machines.wait_up(machine)
    return machine


def _driver_restarted(stage: Stage, machine: Machine) -> Machine:
    again = stage.reconnect()
    again.get(machine.id)
    again.close()
    return machine


def _host_daemon_restarted(stage: Stage, machine: Machine) -> Machine:
    machine.probe().restart_management()
    stage.machines.wait_up(machine)
    return machine


def _cloned(stage: Stage, machine: Machine) -> Machine:
    stage.driver.stop(machine.id, StopMode.GRACEFUL).wait()
    spec = steady_spec(stage.machines)
    id = stage.driver.facet(Clone).clone(machine.id, spec.name, [nic.mac for nic in spec.nics]).wait()
    return _started(stage, stage.machines.adopt(id, spec))


STEPS: Mapping[str, Step] = {
    "booted": _booted,
    "soft-rebooted": _rebooted(RebootMode.SOFT),
    "hard-rebooted": _rebooted(RebootMode.HARD),
    "stop-started": _stop_started,
    "paused-resumed": _paused_resumed,
    "suspended-resumed": _suspended_resumed,
    "reverted": _reverted,
    "resized": _resized,
    "migrated": _migrated,
    "migrated-twice": _migrated_twice,
    "mig-failed": _migration_failed,
    "driver-restarted": _driver_restarted,
    "host-daemon-restarted": _host_daemon_restarted,
    "cloned": _cloned,
}
"""By the provenance's name in the contract; a test holds the two lists together."""
