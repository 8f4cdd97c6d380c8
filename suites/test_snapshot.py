"""Snapshots: a point in time that can be gone back to, whatever was written, deleted or branched in between."""

from __future__ import annotations

from contextlib import suppress

import pytest

from conformance.driver import Driver, Migrate, Pause, Snapshots, Volumes
from conformance.errors import Busy, DriverError, InvalidState, NotFound, Unsupported
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import DATA, Machine, Machines
from conformance.model import MIB, Capability, DiskSpec, PowerState, StopMode
from conformance.waiting import until
from suites.wire import wait_ping

requirement = pytest.mark.requirement
needs = pytest.mark.capability


@pytest.fixture
def snapshots(driver: Driver) -> Snapshots:
    return driver.facet(Snapshots)


STEP = MIB // 8
STEPS = 8


def marked(machine: Machine, seed: int, serial: str = DATA) -> str:
    """Change a part of a disk that depends on `seed`; what its start hashes to is its state from now on.

    Since each call changes other blocks, each layer of a chain holds some that no other layer has.
    """
    machine.guest.write_pattern(serial, (seed % STEPS) * STEP, STEP, seed)
    return content(machine, serial)


def content(machine: Machine, serial: str = DATA) -> str:
    return machine.guest.hash_disk(serial, 0, STEPS * STEP)


def revert(snapshots: Snapshots, machines: Machines, driver: Driver, machine: Machine, snapshot: str) -> None:
    """Revert, by way of a stop where the driver refuses to revert a running VM, and wait for the guest."""
    try:
        snapshots.revert(machine.id, snapshot).wait()
    except InvalidState:
        driver.stop(machine.id, StopMode.FORCE).wait()
        snapshots.revert(machine.id, snapshot).wait()
    if driver.get(machine.id).power is PowerState.STOPPED:
        driver.start(machine.id).wait()
    machines.wait_up(machine)


@requirement("snap.create-no-guest-restart")
def test_snap_create_no_guest_restart(snapshots: Snapshots, machine: Machine) -> None:
    before = machine.guest.boot()

    snapshots.snapshot(machine.id, "s1").wait()

    after = machine.guest.boot()
    assert after.boot_id == before.boot_id
    assert after.uptime_ms >= before.uptime_ms


@requirement("snap.point-in-time")
def test_snap_point_in_time(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    earlier = marked(machine, 31)
    snapshot = snapshots.snapshot(machine.id, "s1").wait()
    later = marked(machine, 32)
    # the control: without a revert, the later write is still there after a power cycle
    driver.stop(machine.id, StopMode.FORCE).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert content(machine) == later

    revert(snapshots, machines, driver, machine, snapshot)

    assert content(machine) == earlier


@requirement("snap.revert-all-disks")
def test_snap_revert_all_disks(driver: Driver, snapshots: Snapshots, machines: Machines) -> None:
    serials = [f"disk{number}" for number in range(3)]
    machine = machines.boot(disks=tuple(DiskSpec(16 * MIB, serial) for serial in serials))
    earlier = [marked(machine, 40 + number, serial) for number, serial in enumerate(serials)]
    snapshot = snapshots.snapshot(machine.id, "s1").wait()
    for number, serial in enumerate(serials):
        marked(machine, 50 + number, serial)

    revert(snapshots, machines, driver, machine, snapshot)

    assert [content(machine, serial) for serial in serials] == earlier


@requirement("snap.memory-revert")
def test_snap_memory_revert(snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.put_ram("marker", "then")
    machine.guest.fill_ram(8, seed=33)
    snapshot = snapshots.snapshot(machine.id, "s1", memory=True).wait()
    machine.guest.put_ram("marker", "now")
    machine.guest.fill_ram(8, seed=34)

    snapshots.revert(machine.id, snapshot).wait()

    assert machines.wait_up(machine).boot_id == before.boot_id
    assert machine.guest.get_ram("marker") == "then"
    assert machine.guest.ram_intact(33)


@requirement("snap.memory-disk-same-instant")
def test_snap_memory_disk_same_instant(snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    slots = 64
    machine.guest.start_writer(DATA, 0, slots, interval_ms=10)
    until("the writer to get going", lambda: machine.guest.writer().acknowledged > 3, seconds=machine.pace.settle)
    snapshot = snapshots.snapshot(machine.id, "s1", memory=True).wait()
    at_snapshot = machine.guest.writer().acknowledged
    until(
        "the writer to go on",
        lambda: machine.guest.writer().acknowledged > at_snapshot + 10,
        seconds=machine.pace.settle,
    )

    snapshots.revert(machine.id, snapshot).wait()

    machines.wait_up(machine)
    in_memory = machine.guest.stop_writer().acknowledged
    on_disk = machine.guest.newest_written(DATA, 0, slots)
    # one write may be on its way when the writer is asked to stop
    assert on_disk in {in_memory, in_memory + 1}


@requirement("snap.revert-running-policy")
def test_snap_revert_running_policy(snapshots: Snapshots, machines: Machines, driver: Driver, machine: Machine) -> None:
    earlier = marked(machine, 35)
    snapshot = snapshots.snapshot(machine.id, "s1").wait()
    later = marked(machine, 36)

    try:
        snapshots.revert(machine.id, snapshot).wait()
    except InvalidState:
        assert content(machine) == later
    else:
        if driver.get(machine.id).power is PowerState.STOPPED:
            driver.start(machine.id).wait()
        machines.wait_up(machine)
        assert content(machine) == earlier, "the revert said yes and did nothing"


@requirement("snap.revert-unknown-id")
def test_snap_revert_unknown_id(snapshots: Snapshots, machine: Machine) -> None:
    snapshots.snapshot(machine.id, "s1").wait()
    now = marked(machine, 37)
    boot = machine.guest.boot()

    with pytest.raises(NotFound):
        snapshots.revert(machine.id, "no-such-snapshot").wait()

    assert machine.guest.boot().boot_id == boot.boot_id
    assert content(machine) == now


@requirement("snap.revert-twice")
def test_snap_revert_twice(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    earlier = marked(machine, 38)
    snapshot = snapshots.snapshot(machine.id, "s1").wait()

    for seed in (39, 40):
        marked(machine, seed)
        revert(snapshots, machines, driver, machine, snapshot)
        assert content(machine) == earlier


@requirement("snap.delete-middle-keeps-data")
def test_snap_delete_middle_keeps_data(
    driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine
) -> None:
    ids, states = [], []
    for number in range(3):
        states.append(marked(machine, 60 + number))
        ids.append(snapshots.snapshot(machine.id, f"s{number}").wait())
    current = marked(machine, 69)

    snapshots.delete_snapshot(machine.id, ids[1]).wait()

    assert content(machine) == current
    assert {snapshot.id for snapshot in snapshots.snapshots(machine.id)} == {ids[0], ids[2]}
    for number in (2, 0):
        revert(snapshots, machines, driver, machine, ids[number])
        assert content(machine) == states[number]


@requirement("snap.delete-root-and-leaf")
def test_snap_delete_root_and_leaf(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    ids, states = [], []
    for number in range(3):
        states.append(marked(machine, 70 + number))
        ids.append(snapshots.snapshot(machine.id, f"s{number}").wait())
    current = marked(machine, 79)

    snapshots.delete_snapshot(machine.id, ids[0]).wait()
    snapshots.delete_snapshot(machine.id, ids[2]).wait()

    assert content(machine) == current
    revert(snapshots, machines, driver, machine, ids[1])
    assert content(machine) == states[1]


@requirement("snap.delete-while-writing")
def test_snap_delete_while_writing(snapshots: Snapshots, machine: Machine) -> None:
    slots = 256
    written = machine.guest.write_pattern(DATA, 4 * MIB, 4 * MIB, seed=80)
    snapshot = snapshots.snapshot(machine.id, "s1").wait()
    machine.guest.start_writer(DATA, 0, slots, interval_ms=2)
    until("the writer to get going", lambda: machine.guest.writer().acknowledged > 10, seconds=machine.pace.settle)

    snapshots.delete_snapshot(machine.id, snapshot).wait()

    at_end = machine.guest.writer().acknowledged
    until("the writer to go on", lambda: machine.guest.writer().acknowledged > at_end, seconds=machine.pace.settle)
    status = machine.guest.stop_writer()
    assert status.errors == 0
    assert machine.guest.newest_written(DATA, 0, slots) >= status.acknowledged
    assert machine.guest.hash_disk(DATA, 4 * MIB, 4 * MIB) == written


@requirement("snap.branching")
def test_snap_branching(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    states: dict[str, str] = {}

    def take(name: str, seed: int) -> str:
        state = marked(machine, seed)
        snapshot = snapshots.snapshot(machine.id, name).wait()
        states[snapshot] = state
        return snapshot

    first, second, third = take("s1", 81), take("s2", 82), take("s3", 83)
    revert(snapshots, machines, driver, machine, second)
    fourth = take("s4", 84)

    snapshots.delete_snapshot(machine.id, second).wait()

    for snapshot in (third, fourth, first):
        revert(snapshots, machines, driver, machine, snapshot)
        assert content(machine) == states[snapshot]


@requirement("snap.revert-keeps-snapshot")
def test_snap_revert_keeps_snapshot(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    ids = [snapshots.snapshot(machine.id, name).wait() for name in ("s1", "s2")]
    parents = {snapshot.id: snapshot.parent for snapshot in snapshots.snapshots(machine.id)}

    revert(snapshots, machines, driver, machine, ids[0])

    assert {snapshot.id: snapshot.parent for snapshot in snapshots.snapshots(machine.id)} == parents


@requirement("snap.paused-vm")
@needs(Capability.PAUSE)
def test_snap_paused_vm(driver: Driver, snapshots: Snapshots, machine: Machine) -> None:
    before = machine.guest.boot()
    driver.facet(Pause).pause(machine.id).wait()

    try:
        snapshots.snapshot(machine.id, "s1").wait()
    except (InvalidState, Unsupported):
        assert not snapshots.snapshots(machine.id)

    assert machine.domain().paused
    driver.facet(Pause).resume(machine.id).wait()
    assert machine.guest.wait_up().boot_id == before.boot_id


@requirement("snap.stopped-vm")
def test_snap_stopped_vm(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    earlier = marked(machine, 85)
    driver.stop(machine.id, StopMode.GRACEFUL).wait()

    snapshot = snapshots.snapshot(machine.id, "s1").wait()

    assert not machine.running_on()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    marked(machine, 86)
    revert(snapshots, machines, driver, machine, snapshot)
    assert content(machine) == earlier


@requirement("snap.config-restored")
def test_snap_config_restored(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    def config() -> object:
        guest, domain = machine.guest, machine.domain()
        return (
            guest.cpus().online,
            guest.memory().total_kib,
            sorted((disk.serial, disk.size_bytes) for disk in guest.disks()),
            sorted((nic.mac, nic.mtu) for nic in guest.nics()),
            (domain.vcpus, domain.memory_mib, sorted(domain.macs), len(domain.disk_paths)),
        )

    expected = config()
    snapshot = snapshots.snapshot(machine.id, "s1").wait()

    revert(snapshots, machines, driver, machine, snapshot)

    assert config() == expected


@requirement("snap.mac-preserved")
def test_snap_mac_preserved(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    address = machine.address()
    snapshot = snapshots.snapshot(machine.id, "s1").wait()

    revert(snapshots, machines, driver, machine, snapshot)

    assert [nic.mac for nic in machine.guest.nics()] == [machine.mac]
    assert list(machine.domain().macs) == [machine.mac]
    wait_ping(machine, address)


@requirement("snap.hotplugged-after-snapshot")
@needs(Capability.VOLUME_HOTPLUG)
def test_snap_hotplugged_after_snapshot(
    driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine
) -> None:
    volumes = driver.facet(Volumes)
    volume = machines.volume(serial="late")
    snapshot = snapshots.snapshot(machine.id, "s1").wait()
    volumes.attach_volume(machine.id, volume).wait()
    until("the volume in the guest", lambda: machine.guest.disk("late"), seconds=machine.pace.settle)
    written = marked(machine, 87, "late")

    try:
        revert(snapshots, machines, driver, machine, snapshot)
    except DriverError:
        machine.guest.wait_up()

    if volume not in {state.id for state in volumes.volumes() if machine.id in state.attached_to}:
        volumes.attach_volume(machine.id, volume).wait()
    until("the volume in the guest", lambda: machine.guest.disk("late"), seconds=machine.pace.settle)
    assert content(machine, "late") == written, "the revert touched a volume that was not in the snapshot"
    volumes.detach_volume(machine.id, volume).wait()


@requirement("snap.survives-migration")
@needs(Capability.MIGRATE_LIVE)
def test_snap_survives_migration(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    earlier = marked(machine, 88)
    snapshot = snapshots.snapshot(machine.id, "s1").wait()
    marked(machine, 89)

    driver.facet(Migrate).migrate(machine.id, machine.other_host()).wait()

    assert [state.id for state in snapshots.snapshots(machine.id)] == [snapshot]
    revert(snapshots, machines, driver, machine, snapshot)
    assert content(machine) == earlier


@requirement("snap.survives-host-daemon-restart")
def test_snap_survives_host_daemon_restart(
    driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine
) -> None:
    earlier = marked(machine, 90)
    snapshot = snapshots.snapshot(machine.id, "s1").wait()
    boot = machine.guest.boot()
    marked(machine, 91)

    machine.probe().restart_management()

    assert machine.guest.boot().boot_id == boot.boot_id
    listed = until(
        "the driver to list the snapshot",
        lambda: snapshots.snapshots(machine.id),
        seconds=machine.pace.settle,
        ignore=(DriverError,),
    )
    assert [state.id for state in listed] == [snapshot]
    revert(snapshots, machines, driver, machine, snapshot)
    assert content(machine) == earlier


@requirement("snap.two-concurrent")
def test_snap_two_concurrent(driver: Driver, snapshots: Snapshots, machines: Machines, machine: Machine) -> None:
    earlier = marked(machine, 92)
    first = snapshots.snapshot(machine.id, "s1")
    with suppress(Busy):
        snapshots.snapshot(machine.id, "s2").wait()
    taken = first.wait()

    marked(machine, 93)
    revert(snapshots, machines, driver, machine, taken)

    assert content(machine) == earlier


@requirement("snap.delete-vm-with-snapshots")
def test_snap_delete_vm_with_snapshots(
    driver: Driver, snapshots: Snapshots, machines: Machines, observers: Observers, lab: LabInventory
) -> None:
    probe = observers.host(lab.hosts[0].name)
    before = probe.inventory()
    machine = machines.boot()
    for name in ("s1", "s2"):
        snapshots.snapshot(machine.id, name).wait()
        marked(machine, 94)

    driver.delete(machine.id).wait()

    assert probe.inventory() == before
    with pytest.raises(NotFound):
        driver.get(machine.id)
