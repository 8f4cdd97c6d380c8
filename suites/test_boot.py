"""Boot: a VM that is reported running is the VM that was asked for, and a boot that cannot be leaves nothing behind."""

from __future__ import annotations

import pytest

from conformance.driver import Driver
from conformance.errors import DriverError, InvalidRequest, QuotaExceeded
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import Machines
from conformance.model import MIB, DiskSpec, Firmware, PowerState

requirement = pytest.mark.requirement


@requirement("boot.reaches-userspace")
def test_boot_reaches_userspace(driver: Driver, machines: Machines) -> None:
    machine = machines.create()
    assert not machine.running_on(), "a VM that was never started has a process"

    driver.start(machine.id).wait()

    assert driver.get(machine.id).power is PowerState.RUNNING
    machines.wait_up(machine)
    assert machine.domain().vcpu_seconds > 0


@requirement("boot.correct-image")
def test_boot_correct_image(machines: Machines) -> None:
    machine = machines.boot()

    assert machine.guest.identity().image_id == machines.image.image_id


@requirement("boot.correct-root-device")
def test_boot_correct_root_device(machines: Machines) -> None:
    extra = tuple(DiskSpec(16 * MIB, f"extra{number}") for number in range(3))
    machine = machines.boot(disks=extra, nics=(machines.nic(), machines.nic()))

    assert machine.guest.identity().image_id == machines.image.image_id
    assert {disk.serial for disk in machine.guest.disks()} >= {"root", *(disk.serial for disk in extra)}


@requirement("boot.firmware-type")
def test_boot_firmware_type(machines: Machines) -> None:
    image = machines.image_for(Firmware.UEFI)
    machine = machines.boot(image=image.name, firmware=Firmware.UEFI, memory_mib=256)

    assert machine.guest.identity().firmware == "uefi"


@requirement("boot.fails-cleanly-bad-image")
def test_boot_fails_cleanly_bad_image(driver: Driver, machines: Machines, lab: LabInventory) -> None:
    before = list(driver.list())
    spec = machines.spec(image=lab.image("corrupt").name)

    with pytest.raises(InvalidRequest):
        driver.start(machines.create(spec).id).wait()

    machines.dispose()
    assert list(driver.list()) == before


@requirement("boot.image-format-not-probed")
def test_boot_image_format_not_probed(machines: Machines, lab: LabInventory, observers: Observers) -> None:
    """The image is raw, and its first bytes are a qcow2 header that names a file of the host as its backing file."""
    trap = lab.image("raw-looking-like-qcow2")
    probe = observers.host(lab.hosts[0].name)

    machine = machines.boot(image=trap.name)

    root = machine.guest.disk("root")
    assert root is not None
    assert root.size_bytes == trap.size_bytes, "the header in the image was believed"
    assert machine.guest.hash_disk("root", 0, trap.size_bytes) == probe.file_hash(str(trap.path))


@requirement("boot.image-size-exceeds-disk")
def test_boot_image_size_exceeds_disk(driver: Driver, machines: Machines) -> None:
    before = list(driver.list())
    spec = machines.spec(root_disk_bytes=machines.image.size_bytes - MIB)

    with pytest.raises(InvalidRequest):
        driver.create(spec).wait()

    assert list(driver.list()) == before


@requirement("boot.fails-cleanly-no-memory")
def test_boot_fails_cleanly_no_memory(driver: Driver, machines: Machines) -> None:
    before = list(driver.list())
    spec = machines.spec(memory_mib=64 * 1024 * 1024)

    with pytest.raises((QuotaExceeded, InvalidRequest)):
        driver.start(machines.create(spec).id).wait()

    machines.dispose()
    assert list(driver.list()) == before


@requirement("boot.failed-spawn-cleans-up")
def test_boot_failed_spawn_cleans_up(
    driver: Driver, machines: Machines, observers: Observers, lab: LabInventory
) -> None:
    probe = observers.host(lab.hosts[0].name)
    storage = machines.storage(shared=False)
    spec = machines.spec(storage=storage.name)
    before = probe.inventory()

    with probe.fill_storage(storage.name), pytest.raises(DriverError):
        driver.create(spec).wait()

    assert probe.inventory() == before
    with pytest.raises(DriverError):
        driver.find(spec.name)


@requirement("boot.retry-after-failure")
def test_boot_retry_after_failure(machines: Machines, driver: Driver, observers: Observers, lab: LabInventory) -> None:
    storage = machines.storage(shared=False)
    spec = machines.spec(storage=storage.name)
    with observers.host(lab.hosts[0].name).fill_storage(storage.name), pytest.raises(DriverError):
        driver.create(spec).wait()

    machine = machines.boot(spec)

    assert machine.running_on() == [lab.hosts[0].name]


@requirement("boot.network-before-run")
def test_boot_network_before_run(driver: Driver, machines: Machines) -> None:
    machine = machines.create()
    discover = b"\x35\x01\x01"  # DHCP option 53: message type, discover
    with machine.peer.sniff(source=machine.mac) as sniffer:
        driver.start(machine.id).wait()
        machines.wait_up(machine)
        machine.address()
        sent = [frame for frame in sniffer.frames() if discover in frame.payload]

    assert len(sent) == 1, f"{len(sent)} DHCP discovers before an answer: the port was not plugged in time"
