"""The driver on real libvirt hosts: what goes wrong leaves nothing behind, and odd names and states are no surprise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.errors import (
    AccessDenied,
    DriverError,
    Exists,
    HostUnreachable,
    HypervisorFailure,
    InvalidRequest,
    InvalidState,
    NotFound,
    QuotaExceeded,
    Timeout,
    Unsupported,
)
from conformance.lab.inventory import LabInventory, Target
from conformance.lab.lab import Observers
from conformance.model import MIB, DiskSpec, Firmware, MigrateOptions, NicSpec, PowerState, RebootMode, StopMode, VmSpec
from conformance.observers.host import Inventory
from conformance.waiting import until
from drivers.libvirt import LibvirtDriver, naming, storage
from labs.kvm.layout import Cell
from tests.drivers.libvirt.conftest import CELL

pytestmark = pytest.mark.lab

MAC = "52:54:00:0f:00:01"
SLOW = MigrateOptions(bandwidth_mib_s=2)


def spec(name: str = "vm", **changes: object) -> VmSpec:
    return VmSpec(name=name, image="hvconform", disks=(DiskSpec(8 * MIB, "data0"),), **changes)  # type: ignore[arg-type]


def running(driver: LibvirtDriver, name: str = "vm", **changes: object) -> str:
    vm = driver.create(spec(name, **changes)).wait()
    driver.start(vm).wait()
    return vm


def everything(lab: LabInventory, observers: Observers) -> Mapping[str, Inventory]:
    return {host.name: observers.host(host.name).inventory() for host in lab.hosts}


@pytest.mark.parametrize("name", ["-x", "日本 🎉", "ü" * 90, "a" * 180, "'\"<&>%,;$(x)`", "[a]*?", " lead", "x\\y"])
def test_a_vm_with_an_odd_name_does_everything(driver: LibvirtDriver, name: str) -> None:
    vm = running(driver, name)
    assert driver.find(name) == vm
    snapshot = driver.snapshot(vm, name, memory=True).wait()
    driver.suspend(vm).wait()
    driver.start(vm).wait()
    driver.migrate(vm, "b").wait()
    driver.revert(vm, snapshot).wait()
    state = driver.get(vm)
    assert (state.name, state.host, state.power, state.snapshots) == (name, "b", PowerState.RUNNING, (snapshot,))
    driver.delete(vm).wait()
    with pytest.raises(NotFound):
        driver.find(name)


def test_a_create_that_fails_leaves_nothing(
    driver: LibvirtDriver, lab: LabInventory, observers: Observers, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.delete(driver.create(spec()).wait()).wait()  # what the first use of a host leaves is not meant
    before = everything(lab, observers)
    made: list[str] = []
    real = storage.create_disk

    def failing(conn: object, path: str, *args: object, **more: object) -> None:
        if made:
            raise HypervisorFailure("no room")
        made.append(path)
        real(conn, path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "create_disk", failing)
    with pytest.raises(HypervisorFailure):
        driver.create(spec()).wait()
    monkeypatch.undo()
    assert made
    assert everything(lab, observers) == before
    driver.create(spec()).wait()


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"image": "no-such"}, InvalidRequest),
        ({"image": "corrupt"}, InvalidRequest),
        ({"root_disk_bytes": MIB}, InvalidRequest),
        ({"host": "z"}, InvalidRequest),
        ({"storage": "z"}, InvalidRequest),
        ({"nics": (NicSpec("z", MAC),)}, InvalidRequest),
        ({"nics": (NicSpec("net1", "01:00:00:00:00:01"),)}, InvalidRequest),
        ({"disks": (DiskSpec(MIB, "root"),)}, InvalidRequest),
        ({"disks": (DiskSpec(MIB + 1, "d"),)}, InvalidRequest),
        ({"vcpus": 0}, InvalidRequest),
        ({"memory_mib": 1 << 30}, QuotaExceeded),
        ({"vcpus": 100_000}, QuotaExceeded),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_made(
    driver: LibvirtDriver, lab: LabInventory, observers: Observers, wrong: dict[str, object], kind: type[DriverError]
) -> None:
    before = everything(lab, observers)
    with pytest.raises(kind):
        driver.create(VmSpec(**{"name": "vm", "image": "hvconform", **wrong})).wait()  # type: ignore[arg-type]
    assert everything(lab, observers) == before


def test_half_a_vm_is_reclaimed_by_its_name(driver: LibvirtDriver, lab: LabInventory, observers: Observers) -> None:
    before = everything(lab, observers)
    place = lab.storage("shared").path
    conn = driver._hosts.get("a")
    for serial in ("root", "data0"):
        storage.create_disk(conn, f"{place}/{naming.disk_file(naming.vm_uuid('half'), serial)}", MIB)
    assert everything(lab, observers) != before
    driver.reclaim("hal")
    assert everything(lab, observers) != before
    driver.reclaim("half")
    driver.reclaim("half")
    assert everything(lab, observers) == before


def test_a_foreign_vm_is_not_there_for_us(driver: LibvirtDriver, observers: Observers) -> None:
    with observers.host("a").create_canary("canary") as canary:
        assert canary.uuid not in driver.list()
        for call in (driver.get, driver.delete, driver.start, driver.addresses):
            with pytest.raises(NotFound):
                call(canary.uuid)
        with pytest.raises(Exists):
            driver.create(spec(canary.name))
        driver.reclaim(canary.name)
        assert canary.uuid in [domain.uuid for domain in observers.host("a").domains()]


def test_a_guest_that_does_not_follow_times_out_and_is_not_asked_for_ever(driver: LibvirtDriver) -> None:
    vm = running(driver)
    driver.reboot(vm, RebootMode.HARD).wait()  # in its firmware now, where nobody hears the power button
    with pytest.raises(Timeout) as caught:
        driver.reboot(vm).wait(0.01)
    assert caught.value.phase == "waiting for the guest to power off"
    driver.stop(vm, StopMode.FORCE).wait()
    assert driver.get(vm).power is PowerState.STOPPED


def test_force_wins_over_asking(driver: LibvirtDriver) -> None:
    vm = running(driver)
    asked = driver.reboot(vm)
    driver.stop(vm, StopMode.FORCE).wait()
    with pytest.raises(HypervisorFailure):
        asked.wait()
    assert driver.get(vm).power is PowerState.STOPPED


def test_a_damaged_state_file_is_reported_and_kept(driver: LibvirtDriver, observers: Observers) -> None:
    vm = running(driver)
    driver.suspend(vm).wait()
    shell = observers.host("a").shell  # type: ignore[attr-defined]
    file = shell.run(["sh", "-c", "ls /var/lib/libvirt/qemu/save/*.save"]).text.strip()
    shell.run(["sh", "-c", f"cp {file} {file}.good; dd if=/dev/zero of={file} bs=100 count=1 conv=notrunc"])
    with pytest.raises(DriverError):
        driver.start(vm).wait()
    assert driver.get(vm).power is PowerState.SUSPENDED
    shell.run(["sh", "-c", f"mv {file}.good {file}"])
    driver.start(vm).wait()
    assert driver.get(vm).power is PowerState.RUNNING


def test_every_snapshot_of_a_tree_stays_good(driver: LibvirtDriver) -> None:
    vm = running(driver)
    first = driver.snapshot(vm, "1", memory=True).wait()
    second = driver.snapshot(vm, "2").wait()
    driver.pause(vm).wait()
    third = driver.snapshot(vm, "3", memory=True).wait()
    assert driver.get(vm).power is PowerState.PAUSED
    driver.resume(vm).wait()
    driver.revert(vm, second).wait()
    fourth = driver.snapshot(vm, "4").wait()
    assert {item.id: item.parent for item in driver.snapshots(vm)} == {
        first: None, second: first, third: second, fourth: second,
    }  # fmt: skip
    driver.delete_snapshot(vm, second).wait()
    for snapshot, power in ((third, PowerState.PAUSED), (fourth, PowerState.PAUSED), (first, PowerState.RUNNING)):
        driver.revert(vm, snapshot).wait()
        assert driver.get(vm).power is power
    driver.stop(vm, StopMode.FORCE).wait()
    driver.revert(vm, fourth).wait()
    assert driver.get(vm).power is PowerState.STOPPED
    with pytest.raises(InvalidState):
        driver.snapshot(vm, "5", memory=True)


def test_snapshots_move_with_the_vm(driver: LibvirtDriver) -> None:
    vm = running(driver)
    driver.snapshot(vm, "1", memory=True).wait()
    driver.snapshot(vm, "2").wait()
    tree = driver.snapshots(vm)
    for host, options in (("b", MigrateOptions()), ("a", MigrateOptions(postcopy=True))):
        driver.migrate(vm, host, options).wait()
        assert driver.snapshots(vm) == tree
    migration = driver.migrate(vm, "b", SLOW)
    migration.abort()
    with pytest.raises(HypervisorFailure, match="aborted on request"):
        migration.wait()
    assert (driver.get(vm).host, driver.snapshots(vm)) == ("a", tree)
    driver.stop(vm, StopMode.FORCE).wait()
    driver.migrate(vm, "b", MigrateOptions(live=False)).wait()
    assert driver.snapshots(vm) == tree


def test_snapshots_parked_by_a_driver_that_died_come_back(driver: LibvirtDriver) -> None:
    vm = running(driver)
    driver.snapshot(vm, "1", memory=True).wait()
    tree = driver.snapshots(vm)
    here = driver._locate(vm, "test")
    driver._park(here)
    assert here.dom.snapshotNum(0) == 0
    assert driver.get(vm).snapshots == (tree[0].id,)
    assert driver.snapshots(vm) == tree
    assert here.dom.snapshotNum(0) == 1


def storage_and_back() -> list[tuple[str, MigrateOptions]]:
    return [
        ("b", MigrateOptions(copy_storage=True, target_storage="local")),
        ("a", MigrateOptions(copy_storage=True)),
        ("b", MigrateOptions(copy_storage=True, target_storage="shared")),
    ]


def test_the_disks_go_where_they_are_sent_and_nothing_stays(
    driver: LibvirtDriver, lab: LabInventory, observers: Observers
) -> None:
    before = everything(lab, observers)
    vm = running(driver)
    for host, options in storage_and_back():
        driver.migrate(vm, host, options).wait()
        (domain,) = [item for name in ("a", "b") for item in observers.host(name).domains() if item.uuid == vm]
        place = str(lab.storage(options.target_storage or "local").path)
        assert domain.host == host
        assert [Path(path).parent for path in domain.disk_paths] == [Path(place)] * 2
    driver.delete(vm).wait()
    assert everything(lab, observers) == before


@pytest.mark.parametrize("options", [SLOW, replace(SLOW, copy_storage=True, target_storage="local")])
def test_a_migration_whose_target_dies_leaves_the_target_clean(
    driver: LibvirtDriver, observers: Observers, options: MigrateOptions
) -> None:
    driver.delete(driver.create(spec(host="b", storage="local")).wait()).wait()
    vm = running(driver)
    before = observers.host("b").inventory()
    migration = driver.migrate(vm, "b", options)
    until(
        "the target to be filled",
        lambda: [item for item in observers.host("b").domains() if item.uuid == vm and item.running],
        seconds=20,
    )
    until("data to flow", lambda: migration.progress().phase == "copying", seconds=20)
    observers.host("b").kill_vm(vm)
    with pytest.raises(HypervisorFailure):
        migration.wait()
    assert (driver.get(vm).host, driver.get(vm).power) == ("a", PowerState.RUNNING)
    assert observers.host("b").inventory() == before
    driver.migrate(vm, "b").wait()
    assert driver.get(vm).host == "b"


@pytest.mark.parametrize("restarted", ["a", "b"])
def test_a_daemon_that_restarts_during_a_migration_loses_nothing(
    driver: LibvirtDriver, observers: Observers, restarted: str
) -> None:
    driver.delete(driver.create(spec(host="b", storage="local")).wait()).wait()
    vm = running(driver)
    driver.snapshot(vm, "1").wait()
    tree = driver.snapshots(vm)
    before = observers.host("b").inventory()
    migration = driver.migrate(vm, "b", SLOW)
    until("data to flow", lambda: migration.progress().phase == "copying", seconds=20)
    observers.host(restarted).restart_management()
    with pytest.raises(DriverError):
        migration.wait()
    assert (driver.get(vm).host, driver.get(vm).power) == ("a", PowerState.RUNNING)
    assert driver.snapshots(vm) == tree
    until("the target to be clean", lambda: observers.host("b").inventory() == before, seconds=10)


def test_an_attach_that_fails_leaves_no_device(driver: LibvirtDriver, observers: Observers, lab: LabInventory) -> None:
    vm = running(driver)
    volume = driver.create_volume("vol", DiskSpec(MIB, "vol0")).wait()
    path = f"{lab.storage('shared').path}/{naming.volume_file('vol', 'vol0')}"
    shell = observers.host("a").shell  # type: ignore[attr-defined]
    shell.run(["dd", "if=/dev/zero", f"of={path}", "bs=512", "count=1", "conv=notrunc"])
    for _ in range(2):
        with pytest.raises(DriverError):
            driver.attach_volume(vm, volume).wait()
    assert [disk.serial for disk in driver.get(vm).disks] == ["root", "data0"]
    assert driver.volumes()[0].attached_to == ()


def test_a_volume_has_one_user_and_outlives_it(driver: LibvirtDriver) -> None:
    first, second = running(driver, "one"), driver.create(spec("two", host="b")).wait()
    volume = driver.create_volume("v/ö.l", DiskSpec(MIB, "vol0")).wait()
    driver.attach_volume(second, volume).wait()
    calls: list[Callable[[], object]] = [
        lambda: driver.attach_volume(first, volume),
        lambda: driver.attach_volume(second, volume),
        lambda: driver.delete_volume(volume),
    ]
    for call in calls:
        with pytest.raises(DriverError):
            call()
    driver.delete(second).wait()
    (left,) = driver.volumes()
    assert (left.id, left.name, left.attached_to) == (volume, "v/ö.l", ())


def test_a_daemon_that_was_restarted_is_found_again(driver: LibvirtDriver, observers: Observers) -> None:
    vm = running(driver)
    observers.host("a").restart_management()
    assert driver.get(vm).power is PowerState.RUNNING
    driver.stop(vm, StopMode.FORCE).wait()


def test_uefi_variables_lie_beside_the_disks_and_go_with_them(driver: LibvirtDriver, lab: LabInventory) -> None:
    vm = driver.create(VmSpec("efi", "hvconform-uefi", memory_mib=256, firmware=Firmware.UEFI)).wait()
    driver.start(vm).wait()
    with pytest.raises(Unsupported):
        driver.snapshot(vm, "1")
    driver.migrate(vm, "b").wait()
    driver.stop(vm, StopMode.FORCE).wait()
    clone = driver.clone(vm, "efi2", []).wait()
    driver.start(clone).wait()
    files = storage.names(driver._hosts.get("a"), str(lab.storage("shared").path))
    assert {naming.nvram_file(vm), naming.nvram_file(clone)} <= set(files)


def other_target(lab: LabInventory, **options: object) -> Target:
    target = lab.target("kvm-libvirt")
    return target.model_copy(update={"options": {**target.options, **options}})


def test_hosts_migrate_by_themselves_and_encrypted(lab: LabInventory) -> None:
    assert lab.state_dir is not None
    seen = Cell(CELL, lab.state_dir).tls_uris()
    target = other_target(lab, migrate={"mode": "p2p", "tls": True, "uris": seen})
    driver = LibvirtDriver.connect(lab, target)
    assert isinstance(driver, LibvirtDriver)
    try:
        vm = running(driver)
        for host, family in (("b", 4), ("a", 6)):
            driver.migrate(vm, host, MigrateOptions(uri_family=family)).wait()
            assert driver.get(vm).host == host
    finally:
        driver.reclaim("vm")
        driver.close()


def test_a_host_that_does_not_answer_is_not_an_empty_one(lab: LabInventory) -> None:
    uris = lab.target("kvm-libvirt").options["uris"]
    with pytest.raises((HostUnreachable, AccessDenied)):
        LibvirtDriver.connect(lab, other_target(lab, uris={**uris, "b": "qemu+unix:///system?socket=/nowhere"}))
