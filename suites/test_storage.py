"""Disks and volumes: what is attached is what was meant, what is detached is let go of, and no data is touched."""

from __future__ import annotations

import pytest

from conformance.driver import Clone, Driver, Volumes
from conformance.errors import DriverError, NotFound
from conformance.machine import DATA, DATA_BYTES, Machine, Machines
from conformance.model import MIB, Capability, RebootMode, StopMode
from conformance.waiting import until

requirement = pytest.mark.requirement
needs = pytest.mark.capability

VOLUME = "vol0"


@pytest.fixture
def volumes(driver: Driver) -> Volumes:
    return driver.facet(Volumes)


def attached(machine: Machine, volumes: Volumes, volume: str, serial: str = VOLUME) -> None:
    """Attach a volume and wait until the guest has it."""
    volumes.attach_volume(machine.id, volume).wait()
    until("the volume in the guest", lambda: machine.guest.disk(serial), seconds=machine.pace.settle)


@requirement("disk.attach-visible")
def test_disk_attach_visible(volumes: Volumes, machines: Machines, machine: Machine) -> None:
    volume = machines.volume(24 * MIB)

    attached(machine, volumes, volume)

    disk = machine.guest.disk(VOLUME)
    assert disk is not None
    assert disk.size_bytes == 24 * MIB
    assert len(machine.domain().disk_paths) == 3
    volumes.detach_volume(machine.id, volume).wait()


@requirement("disk.attach-data-intact")
def test_disk_attach_data_intact(volumes: Volumes, machines: Machines, machine: Machine) -> None:
    volume = machines.volume()
    attached(machine, volumes, volume)
    written = machine.guest.write_pattern(VOLUME, 0, DATA_BYTES, seed=301)

    volumes.detach_volume(machine.id, volume).wait()
    attached(machine, volumes, volume)

    assert machine.guest.hash_disk(VOLUME, 0, DATA_BYTES) == written
    volumes.detach_volume(machine.id, volume).wait()


@requirement("disk.detach-really-detached")
def test_disk_detach_really_detached(volumes: Volumes, machines: Machines, machine: Machine) -> None:
    volume = machines.volume()
    before = machine.domain().disk_paths
    attached(machine, volumes, volume)

    volumes.detach_volume(machine.id, volume).wait()

    assert machine.guest.disk(VOLUME) is None
    assert machine.domain().disk_paths == before
    other = machines.boot()
    attached(other, volumes, volume)
    volumes.detach_volume(other.id, volume).wait()


@requirement("disk.detach-not-deleted")
@needs(Capability.VOLUME_HOTPLUG)
def test_disk_detach_not_deleted(volumes: Volumes, machines: Machines, machine: Machine) -> None:
    volume = machines.volume()
    before = set(machine.domain().disk_paths)
    attached(machine, volumes, volume)
    written = machine.guest.write_pattern(VOLUME, 0, MIB, seed=302)
    (path,) = set(machine.domain().disk_paths) - before
    probe = machine.probe()

    volumes.detach_volume(machine.id, volume).wait()

    assert probe.exists(path)
    attached(machine, volumes, volume)
    assert machine.guest.hash_disk(VOLUME, 0, MIB) == written
    volumes.detach_volume(machine.id, volume).wait()


@requirement("disk.vm-delete-keeps-foreign")
@needs(Capability.VOLUME_HOTPLUG)
def test_disk_vm_delete_keeps_foreign(driver: Driver, volumes: Volumes, machines: Machines, machine: Machine) -> None:
    volume = machines.volume()
    doomed = machines.boot()
    attached(doomed, volumes, volume)
    written = doomed.guest.write_pattern(VOLUME, 0, MIB, seed=303)

    driver.delete(doomed.id).wait()

    assert [state.attached_to for state in volumes.volumes() if state.id == volume] == [()]
    attached(machine, volumes, volume)
    assert machine.guest.hash_disk(VOLUME, 0, MIB) == written
    volumes.detach_volume(machine.id, volume).wait()


@requirement("disk.attach-idempotent")
def test_disk_attach_idempotent(volumes: Volumes, machines: Machines, machine: Machine) -> None:
    volume = machines.volume()
    attached(machine, volumes, volume)

    with pytest.raises(DriverError):
        volumes.attach_volume(machine.id, volume).wait()

    assert [disk.serial for disk in machine.guest.disks()].count(VOLUME) == 1
    volumes.detach_volume(machine.id, volume).wait()


@requirement("disk.attach-exclusive")
def test_disk_attach_exclusive(volumes: Volumes, machines: Machines, machine: Machine) -> None:
    volume = machines.volume()
    attached(machine, volumes, volume)
    other = machines.boot(host=machine.other_host())

    with pytest.raises(DriverError):
        volumes.attach_volume(other.id, volume).wait()

    assert other.guest.disk(VOLUME) is None
    volumes.detach_volume(machine.id, volume).wait()


@requirement("disk.attach-failure-cleans")
def test_disk_attach_failure_cleans(volumes: Volumes, machine: Machine) -> None:
    probe = machine.probe()
    before = probe.inventory()

    for _ in range(3):
        with pytest.raises(NotFound):
            volumes.attach_volume(machine.id, "no-such-volume").wait()

    assert probe.inventory() == before


@requirement("disk.hotplug-under-io")
def test_disk_hotplug_under_io(volumes: Volumes, machines: Machines, machine: Machine) -> None:
    slots = 64
    machine.guest.start_writer(DATA, 0, slots, interval_ms=5)
    until("the writer to get going", lambda: machine.guest.writer().acknowledged > 3, seconds=machine.pace.settle)
    volume = machines.volume()

    attached(machine, volumes, volume)
    volumes.detach_volume(machine.id, volume).wait()

    status = machine.guest.stop_writer()
    assert status.errors == 0
    assert machine.guest.newest_written(DATA, 0, slots) >= status.acknowledged
    assert not machine.guest.kernel_problems()


@requirement("reboot.hotplugged-device-survives")
@needs(Capability.VOLUME_HOTPLUG)
def test_reboot_hotplugged_device_survives(
    driver: Driver, volumes: Volumes, machines: Machines, machine: Machine
) -> None:
    volume = machines.volume()
    attached(machine, volumes, volume)
    written = machine.guest.write_pattern(VOLUME, 0, MIB, seed=304)

    for mode in RebootMode:
        before = machine.guest.boot()
        driver.reboot(machine.id, mode).wait()
        machines.wait_new_boot(machine, before)
        assert machine.guest.hash_disk(VOLUME, 0, MIB) == written, f"after a {mode} reboot"

    driver.stop(machine.id, StopMode.GRACEFUL).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.hash_disk(VOLUME, 0, MIB) == written
    volumes.detach_volume(machine.id, volume).wait()


@requirement("image.base-not-modified")
def test_image_base_not_modified(driver: Driver, machines: Machines) -> None:
    image = machines.image
    machine = machines.boot(root_disk_bytes=image.size_bytes + 16 * MIB)
    probe = machine.probe()

    machine.guest.write_pattern("root", image.size_bytes, MIB, seed=305)
    before = machine.guest.boot()
    driver.reboot(machine.id, RebootMode.SOFT).wait()
    machines.wait_new_boot(machine, before)
    driver.stop(machine.id, StopMode.GRACEFUL).wait()
    driver.delete(machine.id).wait()

    assert probe.file_hash(str(image.path)) == image.sha256


@requirement("clone.new-identity")
def test_clone_new_identity(driver: Driver, machines: Machines, machine: Machine) -> None:
    driver.stop(machine.id, StopMode.GRACEFUL).wait()
    clone = cloned(driver, machines, machine)

    for each in (machine, clone):
        driver.start(each.id).wait()
        machines.wait_up(each)

    assert clone.guest.identity().smbios_uuid == clone.uuid != machine.uuid
    assert {nic.mac for nic in clone.guest.nics()}.isdisjoint(nic.mac for nic in machine.guest.nics())
    assert clone.address() != machine.address()


@requirement("clone.independent")
def test_clone_independent(driver: Driver, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=306)
    driver.stop(machine.id, StopMode.GRACEFUL).wait()
    clone = cloned(driver, machines, machine)

    driver.start(clone.id).wait()
    machines.wait_up(clone)
    assert clone.guest.hash_disk(DATA, 0, MIB) == written
    clone.guest.write_pattern(DATA, 0, MIB, seed=307)
    driver.delete(clone.id).wait()

    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.hash_disk(DATA, 0, MIB) == written


def cloned(driver: Driver, machines: Machines, machine: Machine) -> Machine:
    """A clone with a MAC of its own, looked after like any machine."""
    spec = machines.spec()
    id = driver.facet(Clone).clone(machine.id, spec.name, [spec.nics[0].mac]).wait()
    return machines.adopt(id, spec)
