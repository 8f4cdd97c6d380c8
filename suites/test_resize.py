"""Resize: the new size is what the guest and the host show, the data is what it was, and a refusal changes nothing."""

from __future__ import annotations

from contextlib import suppress

import pytest

from conformance.driver import Driver, Resize, ResizeDisk, Snapshots, Volumes
from conformance.errors import Busy, DriverError, InvalidRequest, InvalidState, NotFound, QuotaExceeded, Unsupported
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import DATA, DATA_BYTES, Machine, Machines
from conformance.model import MIB, Capability, PowerState, StopMode
from conformance.waiting import until
from suites.provenances import RESERVED_KIB
from suites.wire import wait_ping

requirement = pytest.mark.requirement
needs = pytest.mark.capability


def stopped(driver: Driver, machine: Machine) -> None:
    driver.stop(machine.id, StopMode.GRACEFUL).wait()


def started(driver: Driver, machines: Machines, machine: Machine) -> None:
    driver.start(machine.id).wait()
    machines.wait_up(machine)


def assert_size(machine: Machine, vcpus: int, memory_mib: int) -> None:
    """The size, by guest and host."""
    assert machine.guest.cpus().online == vcpus
    assert memory_mib * 1024 - RESERVED_KIB <= machine.guest.memory().total_kib <= memory_mib * 1024
    domain = machine.domain()
    assert (domain.vcpus, domain.memory_mib) == (vcpus, memory_mib)


@requirement("resize.up-cpu-mem")
def test_resize_up_cpu_mem(driver: Driver, machines: Machines, machine: Machine) -> None:
    assert_size(machine, 1, 128)
    stopped(driver, machine)

    driver.facet(Resize).resize(machine.id, vcpus=2, memory_mib=256).wait()

    started(driver, machines, machine)
    assert_size(machine, 2, 256)
    state = driver.get(machine.id)
    assert (state.vcpus, state.memory_mib) == (2, 256)


@requirement("resize.down-cpu-mem")
def test_resize_down_cpu_mem(driver: Driver, machines: Machines) -> None:
    machine = machines.boot(vcpus=2, memory_mib=256)
    stopped(driver, machine)

    try:
        driver.facet(Resize).resize(machine.id, vcpus=1, memory_mib=128).wait()
    except (Unsupported, InvalidRequest):
        expected = (2, 256)
    else:
        expected = (1, 128)

    started(driver, machines, machine)
    assert_size(machine, *expected)


@requirement("resize.persists")
def test_resize_persists(driver: Driver, machines: Machines, machine: Machine) -> None:
    stopped(driver, machine)
    driver.facet(Resize).resize(machine.id, vcpus=2, memory_mib=192).wait()
    started(driver, machines, machine)

    before = machine.guest.boot()
    driver.reboot(machine.id).wait()
    machines.wait_new_boot(machine, before)
    assert_size(machine, 2, 192)

    stopped(driver, machine)
    started(driver, machines, machine)
    assert_size(machine, 2, 192)


@requirement("resize.hot-no-reboot")
def test_resize_hot_no_reboot(driver: Driver, machines: Machines) -> None:
    machine = machines.boot(vcpus=1, max_vcpus=2)
    before = machine.guest.boot()

    driver.facet(Resize).resize(machine.id, vcpus=2).wait()

    until(
        "the second vCPU to be online",
        lambda: machine.guest.cpus().online,
        lambda online: online == 2,
        seconds=machine.pace.settle,
    )
    assert machine.guest.boot().boot_id == before.boot_id


@requirement("resize.cold-keeps-power-state")
def test_resize_cold_keeps_power_state(driver: Driver, machine: Machine) -> None:
    stopped(driver, machine)

    driver.facet(Resize).resize(machine.id, vcpus=2, memory_mib=192).wait()

    assert driver.get(machine.id).power is PowerState.STOPPED
    assert not machine.running_on()


@requirement("resize.data-preserved")
def test_resize_data_preserved(driver: Driver, machines: Machines, machine: Machine) -> None:
    slots = 64
    written = machine.guest.write_pattern(DATA, 4 * MIB, 4 * MIB, seed=101)
    machine.guest.start_writer(DATA, 0, slots, interval_ms=5)
    until("the writer to get going", lambda: machine.guest.writer().acknowledged > 3, seconds=machine.pace.settle)
    acknowledged = machine.guest.writer().acknowledged
    stopped(driver, machine)

    driver.facet(Resize).resize(machine.id, vcpus=2, memory_mib=192).wait()

    started(driver, machines, machine)
    assert machine.guest.hash_disk(DATA, 4 * MIB, 4 * MIB) == written
    assert machine.guest.newest_written(DATA, 0, slots) >= acknowledged


@requirement("resize.disk-grow")
def test_resize_disk_grow(driver: Driver, machines: Machines, machine: Machine, observers: Observers) -> None:
    written = machine.guest.write_pattern(DATA, 0, 4 * MIB, seed=102)
    host = machine.domain().host
    stopped(driver, machine)
    size = DATA_BYTES + 8 * MIB

    driver.facet(ResizeDisk).resize_disk(machine.id, DATA, size).wait()

    started(driver, machines, machine)
    disk = machine.guest.disk(DATA)
    assert disk is not None
    assert disk.size_bytes == size
    assert size in {observers.host(host).disk_size(path) for path in machine.domain().disk_paths}
    assert machine.guest.hash_disk(DATA, 0, 4 * MIB) == written


@requirement("resize.disk-grow-online")
def test_resize_disk_grow_online(driver: Driver, machine: Machine) -> None:
    slots = 256
    before = machine.guest.boot()
    written = machine.guest.write_pattern(DATA, 4 * MIB, 4 * MIB, seed=103)
    machine.guest.start_writer(DATA, 0, slots, interval_ms=2)
    until("the writer to get going", lambda: machine.guest.writer().acknowledged > 10, seconds=machine.pace.settle)
    size = DATA_BYTES + 8 * MIB

    driver.facet(ResizeDisk).resize_disk(machine.id, DATA, size).wait()

    until(
        "the guest to see the new size",
        lambda: machine.guest.disk(DATA),
        lambda disk: disk is not None and disk.size_bytes == size,
        seconds=machine.pace.settle,
    )
    status = machine.guest.stop_writer()
    assert status.errors == 0
    assert machine.guest.newest_written(DATA, 0, slots) >= status.acknowledged
    assert machine.guest.hash_disk(DATA, 4 * MIB, 4 * MIB) == written
    beyond = machine.guest.write_pattern(DATA, DATA_BYTES, 4 * MIB, seed=104)
    assert machine.guest.hash_disk(DATA, DATA_BYTES, 4 * MIB) == beyond
    assert machine.guest.boot().boot_id == before.boot_id


@requirement("resize.disk-shrink-refused")
@needs(Capability.RESIZE_DISK)
def test_resize_disk_shrink_refused(driver: Driver, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, 4 * MIB, seed=105)
    stopped(driver, machine)

    with pytest.raises((InvalidRequest, Unsupported)):
        driver.facet(ResizeDisk).resize_disk(machine.id, DATA, DATA_BYTES // 2).wait()

    assert driver.get(machine.id).power is PowerState.STOPPED
    started(driver, machines, machine)
    disk = machine.guest.disk(DATA)
    assert disk is not None
    assert disk.size_bytes == DATA_BYTES
    assert machine.guest.hash_disk(DATA, 0, 4 * MIB) == written


@requirement("resize.failed-rolls-back")
def test_resize_failed_rolls_back(driver: Driver, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=106)
    stopped(driver, machine)

    with pytest.raises(DriverError):
        driver.facet(Resize).resize(machine.id, vcpus=2, memory_mib=64 * 1024 * 1024).wait()

    assert driver.get(machine.id).power is PowerState.STOPPED
    started(driver, machines, machine)
    assert_size(machine, 1, 128)
    assert machine.guest.hash_disk(DATA, 0, MIB) == written


@requirement("resize.failed-then-retry")
def test_resize_failed_then_retry(driver: Driver, machines: Machines, machine: Machine) -> None:
    stopped(driver, machine)
    with pytest.raises(DriverError):
        driver.facet(Resize).resize(machine.id, memory_mib=64 * 1024 * 1024).wait()

    driver.facet(Resize).resize(machine.id, vcpus=2, memory_mib=192).wait()

    started(driver, machines, machine)
    assert_size(machine, 2, 192)


@requirement("resize.failure-not-success")
def test_resize_failure_not_success(driver: Driver, machine: Machine) -> None:
    stopped(driver, machine)

    with suppress(DriverError):
        driver.facet(Resize).resize(machine.id, memory_mib=64 * 1024 * 1024).wait()

    state = driver.get(machine.id)
    assert (state.vcpus, state.memory_mib) == (1, 128), "the driver reports a size that it did not give"


@requirement("resize.over-capacity")
def test_resize_over_capacity(driver: Driver, machine: Machine) -> None:
    before = machine.guest.boot()

    with pytest.raises((QuotaExceeded, InvalidRequest, InvalidState, Unsupported)):
        driver.facet(Resize).resize(machine.id, memory_mib=64 * 1024 * 1024).wait()

    assert machine.guest.boot().boot_id == before.boot_id
    assert_size(machine, 1, 128)


@requirement("resize.volumes-follow")
@needs(Capability.VOLUME_HOTPLUG)
def test_resize_volumes_follow(driver: Driver, machines: Machines, machine: Machine) -> None:
    volumes = driver.facet(Volumes)
    volume = machines.volume(serial="vol0")
    volumes.attach_volume(machine.id, volume).wait()
    until("the volume in the guest", lambda: machine.guest.disk("vol0"), seconds=machine.pace.settle)
    written = machine.guest.write_pattern("vol0", 0, MIB, seed=107)
    stopped(driver, machine)

    driver.facet(Resize).resize(machine.id, vcpus=2).wait()

    started(driver, machines, machine)
    assert machine.guest.hash_disk("vol0", 0, MIB) == written
    assert [state.attached_to for state in volumes.volumes() if state.id == volume] == [(machine.id,)]
    volumes.detach_volume(machine.id, volume).wait()


@requirement("resize.nic-replugged")
def test_resize_nic_replugged(driver: Driver, machines: Machines, machine: Machine) -> None:
    address = machine.address()
    stopped(driver, machine)

    driver.facet(Resize).resize(machine.id, vcpus=2).wait()

    started(driver, machines, machine)
    wait_ping(machine, address)


@requirement("resize.delete-during")
def test_resize_delete_during(driver: Driver, machines: Machines, observers: Observers, lab: LabInventory) -> None:
    probe = observers.host(lab.hosts[0].name)
    before = probe.inventory()
    machine = machines.create()
    resizing = driver.facet(Resize).resize(machine.id, vcpus=2)

    def deleted() -> bool:
        try:
            driver.delete(machine.id).wait()
        except (Busy, InvalidState):
            return False
        return True

    until("the delete to be taken", deleted, seconds=machine.pace.operation)
    with suppress(DriverError):
        resizing.wait()

    assert probe.inventory() == before
    with pytest.raises(NotFound):
        driver.find(machine.spec.name)


@requirement("snap.resize-with-snapshot")
@needs(Capability.RESIZE_DISK)
def test_snap_resize_with_snapshot(driver: Driver, machines: Machines, machine: Machine) -> None:
    snapshots = driver.facet(Snapshots)
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=108)
    stopped(driver, machine)
    snapshot = snapshots.snapshot(machine.id, "s1").wait()

    with suppress(InvalidState, InvalidRequest, Unsupported):
        driver.facet(ResizeDisk).resize_disk(machine.id, DATA, DATA_BYTES + 8 * MIB).wait()
    snapshots.revert(machine.id, snapshot).wait()

    started(driver, machines, machine)
    disk = machine.guest.disk(DATA)
    assert disk is not None
    assert disk.size_bytes == DATA_BYTES
    assert machine.guest.hash_disk(DATA, 0, MIB) == written
