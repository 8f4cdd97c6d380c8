"""Asks a driver for a capability in the smallest way: to see it refused where undeclared, or done where declared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import cast

from conformance.driver import (
    Clone,
    Console,
    Driver,
    Migrate,
    Nics,
    Operation,
    Pause,
    Resize,
    ResizeDisk,
    ResizeRevert,
    Snapshots,
    Suspend,
    Volumes,
)
from conformance.errors import Unsupported
from conformance.machine import DATA, DATA_BYTES, Machine, Machines
from conformance.model import MIB, Capability, DiskSpec, Firmware, MigrateOptions, PowerState, StopMode, VmState

Ask = Callable[[Driver, Machines, Machine], object]
"""Asks for a capability in the smallest way; what it returns is waited for when it is an operation."""


def _attach_volume(driver: Driver, machines: Machines, machine: Machine) -> object:
    volumes = driver.facet(Volumes)
    volume = volumes.create_volume(machines.name(), DiskSpec(DATA_BYTES, "vol0")).wait()
    try:
        return volumes.attach_volume(machine.id, volume).wait()
    finally:
        volumes.delete_volume(volume).wait()


def _resize_stopped(driver: Driver, _: Machines, machine: Machine) -> Operation[None]:
    return driver.facet(Resize).resize(machine.id, memory_mib=machine.spec.memory_mib + 32)


def _revert_resize(driver: Driver, _: Machines, machine: Machine) -> object:
    reverting = driver.facet(ResizeRevert)
    _resize_stopped(driver, _, machine).wait()
    return reverting.revert_resize(machine.id)


def _uefi(driver: Driver, machines: Machines, _: Machine) -> object:
    return driver.create(replace(machines.spec(), firmware=Firmware.UEFI))


def _anti_spoof(driver: Driver, machines: Machines, _: Machine) -> object:
    return driver.create(machines.spec(nics=(machines.nic(anti_spoof=True),)))


def _abort_migration(driver: Driver, _: Machines, machine: Machine) -> object:
    moving = driver.facet(Migrate).migrate(machine.id, machine.other_host(), MigrateOptions(bandwidth_mib_s=4))
    try:
        moving.abort()
    finally:
        moving.wait()
    return None


def _migrate(options: MigrateOptions) -> Ask:
    def ask(driver: Driver, _: Machines, machine: Machine) -> object:
        return driver.facet(Migrate).migrate(machine.id, machine.other_host(), options)

    return ask


def _migrate_paused(driver: Driver, _: Machines, machine: Machine) -> object:
    pausing = driver.facet(Pause)
    pausing.pause(machine.id).wait()
    try:
        return driver.facet(Migrate).migrate(machine.id, machine.other_host()).wait()
    finally:
        pausing.resume(machine.id).wait()


ASK: Mapping[Capability, Ask] = {
    Capability.FIRMWARE_UEFI: _uefi,
    Capability.PAUSE: lambda driver, _, machine: driver.facet(Pause).pause(machine.id),
    Capability.SUSPEND: lambda driver, _, machine: driver.facet(Suspend).suspend(machine.id),
    Capability.SNAPSHOT_DISK: lambda driver, _, machine: driver.facet(Snapshots).snapshot(machine.id, "refused"),
    Capability.SNAPSHOT_MEMORY: lambda driver, _, machine: driver.facet(Snapshots).snapshot(
        machine.id, "refused", memory=True
    ),
    Capability.SNAPSHOT_QUIESCE: lambda driver, _, machine: driver.facet(Snapshots).snapshot(
        machine.id, "refused", quiesce=True
    ),
    Capability.SNAPSHOT_EXCLUDE_DISK: lambda driver, _, machine: driver.facet(Snapshots).snapshot(
        machine.id, "refused", exclude=(DATA,)
    ),
    Capability.CLONE: lambda driver, machines, machine: driver.facet(Clone).clone(
        machine.id, machines.name(), [machines.mac()]
    ),
    Capability.RESIZE_COLD: _resize_stopped,
    Capability.RESIZE_HOT_VCPU: lambda driver, _, machine: driver.facet(Resize).resize(
        machine.id, vcpus=machine.spec.vcpus + 1
    ),
    Capability.RESIZE_HOT_MEMORY: _resize_stopped,
    Capability.RESIZE_REVERT: _revert_resize,
    Capability.RESIZE_DISK: lambda driver, _, machine: driver.facet(ResizeDisk).resize_disk(
        machine.id, DATA, DATA_BYTES + 16 * MIB
    ),
    Capability.RESIZE_DISK_ONLINE: lambda driver, _, machine: driver.facet(ResizeDisk).resize_disk(
        machine.id, DATA, DATA_BYTES + 16 * MIB
    ),
    Capability.MIGRATE_LIVE: _migrate(MigrateOptions()),
    Capability.MIGRATE_LIVE_STORAGE: _migrate(MigrateOptions(copy_storage=True)),
    Capability.MIGRATE_PAUSED: _migrate_paused,
    Capability.MIGRATE_COLD: _migrate(MigrateOptions(live=False)),
    Capability.MIGRATE_POSTCOPY: _migrate(MigrateOptions(postcopy=True)),
    Capability.MIGRATE_IPV6: _migrate(MigrateOptions(uri_family=6)),
    Capability.MIGRATE_ABORT: _abort_migration,
    Capability.NIC_HOTPLUG: lambda driver, machines, machine: driver.facet(Nics).attach_nic(machine.id, machines.nic()),
    Capability.NIC_LINK_STATE: lambda driver, _, machine: driver.facet(Nics).set_link(
        machine.id, driver.get(machine.id).nics[0].id, False
    ),
    Capability.ANTI_SPOOF: _anti_spoof,
    Capability.VOLUME_HOTPLUG: _attach_volume,
    Capability.CONSOLE_LOG: lambda driver, _, machine: driver.facet(Console).console_log(machine.id),
}
"""Every capability that has an operation of its own. The others cannot be asked for."""

STOPPED = frozenset({Capability.RESIZE_COLD, Capability.RESIZE_DISK, Capability.RESIZE_REVERT, Capability.MIGRATE_COLD})
"""Asked for on a stopped VM."""

BY_RESTART = frozenset({Capability.RESIZE_HOT_VCPU, Capability.RESIZE_HOT_MEMORY})
"""A cloud may carry these out by a restart instead of refusing them, if it can resize at all."""

UNASKED = "cannot be asked for: the driver interface has no call for it"


def check(undeclared: Collection[Capability], driver: Driver, machines: Machines) -> Mapping[Capability, str]:
    """Ask for undeclared capabilities and return the refusal of each; the machines are gone then.

    One machine is asked for them all: it is looked at after each refusal, and has to be as it was. Only one that a
    declared operation changed on the way, such as a restart that carried a resize out, gives way to a new one.

    Raises:
        AssertionError: One was done, or refused in another way than by `Unsupported`, or it changed the VM.
    """
    refusals = dict.fromkeys(undeclared, UNASKED)
    machine: Machine | None = None
    before: VmState | None = None
    try:
        for capability in sorted((asked for asked in ASK if asked in undeclared), key=STOPPED.__contains__):
            if machine is None or driver.get(machine.id) != before:
                machine = machines.boot()
            if capability in STOPPED and driver.get(machine.id).power is not PowerState.STOPPED:
                driver.stop(machine.id, StopMode.FORCE).wait()
            before = driver.get(machine.id)
            refusals[capability] = _refusal(capability, driver, machines, machine, before.power)
    finally:
        machines.dispose()
    return refusals


def _refusal(capability: Capability, driver: Driver, machines: Machines, machine: Machine, before: PowerState) -> str:
    boot = None if capability in STOPPED else machine.guest.boot().boot_id
    refusal = _refused(ASK[capability], driver, machines, machine)
    if refusal is None and capability in BY_RESTART and Capability.RESIZE_COLD in driver.capabilities():
        machines.wait_up(machine)
        assert machine.guest.boot().boot_id != boot, f"{capability} is not declared, yet it was done"
        return "carried out by a restart"
    assert refusal is not None, f"{capability} is not declared, yet it was done"
    assert driver.get(machine.id).power is before, f"refusing {capability} changed the power state"
    if boot is not None:
        assert machine.guest.boot().boot_id == boot, f"refusing {capability} rebooted the guest"
    return refusal


def prove(capability: Capability, driver: Driver, machines: Machines) -> None:
    """Ask for a declared capability in the smallest way.

    Raises:
        AssertionError: It was refused as unsupported all the same.
        DriverError: It failed.
    """
    machine = machines.boot()
    if capability in STOPPED:
        driver.stop(machine.id, StopMode.FORCE).wait()
    refusal = _refused(ASK[capability], driver, machines, machine)
    assert refusal is None, f"{capability} is declared, yet it was refused: {refusal}"


def _refused(ask: Ask, driver: Driver, machines: Machines, machine: Machine) -> str | None:
    try:
        asked = ask(driver, machines, machine)
    except Unsupported as refusal:
        return str(refusal)
    if not hasattr(asked, "wait"):
        return None
    operation = cast(Operation[object], asked)
    try:
        done = operation.wait()
    except Unsupported as refusal:
        return f"{refusal} (refused only after the call had returned)"
    if isinstance(done, str) and done in driver.list():
        machines.adopt(done, machine.spec)  # so that it is deleted with the rest
    return None
