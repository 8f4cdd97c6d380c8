"""The simulated driver keeps the promises of the interface, and its typed refusals change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.driver import disagreements
from conformance.errors import (
    Busy,
    DriverError,
    Exists,
    FaultNotFired,
    HostUnreachable,
    InvalidRequest,
    InvalidState,
    NotFound,
    QuotaExceeded,
    Timeout,
    Unsupported,
)
from conformance.model import MIB, Capability, DiskSpec, MigrateOptions, NicSpec, PowerState, StopMode
from tests.simulated.conftest import Bench

SLOW = MigrateOptions(bandwidth_mib_s=4)


def test_what_is_declared_is_implemented(bench: Bench) -> None:
    assert not disagreements(bench.driver)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"image": "corrupt"}, InvalidRequest),
        ({"image": "nothing"}, InvalidRequest),
        ({"root_disk_bytes": MIB}, InvalidRequest),
        ({"memory_mib": 1_000_000}, QuotaExceeded),
        ({"nics": (NicSpec("net9", "52:54:00:00:00:01"),)}, InvalidRequest),
        ({"host": "z"}, InvalidRequest),
        ({"disks": (DiskSpec(MIB, "x"), DiskSpec(MIB, "x"))}, InvalidRequest),
    ],
)
def test_a_refused_create_leaves_nothing(bench: Bench, changes: dict[str, object], error: type[DriverError]) -> None:
    before = bench.everything()
    with pytest.raises(error):
        bench.create(**changes)
    assert bench.everything() == before


@pytest.mark.parametrize("name", ["mäschine 🙂", "../../etc/x", "a*b?[c]", "-rf", "x" * 200])
def test_odd_names_are_only_names(bench: Bench, name: str) -> None:
    before = bench.everything()
    vm, _ = bench.create(name)
    assert bench.driver.find(name) == vm
    with pytest.raises(NotFound):
        bench.driver.find(name[:-1] + "*")
    with pytest.raises(Exists):
        bench.create(name)
    bench.driver.delete(vm).wait()
    assert bench.everything() == before


def test_undeclared_is_refused_and_changes_nothing(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    before, boot = bench.everything(), guest.boot().boot_id
    with pytest.raises(Unsupported) as failure:
        bench.driver.snapshot(vm, "s", exclude=("data0",))
    assert failure.value.capability == Capability.SNAPSHOT_EXCLUDE_DISK
    with pytest.raises(Unsupported):
        bench.driver.migrate(vm, "b", MigrateOptions(postcopy=True))
    with pytest.raises(Unsupported):
        bench.driver.resize(vm, memory_mib=256)
    assert bench.everything() == before
    assert guest.boot().boot_id == boot


def test_an_illegal_state_names_the_legal_ones(bench: Bench) -> None:
    vm, _ = bench.create()
    with pytest.raises(InvalidState) as failure:
        bench.driver.pause(vm)
    assert (failure.value.current, failure.value.allowed) == ("stopped", ("running",))


def test_a_deaf_guest_times_out_and_can_be_forced(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    guest.ignore_power_button()
    with pytest.raises(Timeout):
        bench.driver.stop(vm).wait(3.0)
    assert bench.driver.get(vm).power is PowerState.RUNNING
    bench.driver.stop(vm, StopMode.FORCE).wait()
    assert bench.driver.get(vm).power is PowerState.STOPPED


def test_one_job_at_a_time(bench: Bench) -> None:
    vm, _, _ = bench.boot()
    migrating = bench.driver.migrate(vm, "b", SLOW)
    with pytest.raises(Busy):
        bench.driver.snapshot(vm, "s")
    migrating.abort()
    with pytest.raises(DriverError):
        migrating.wait()
    bench.driver.snapshot(vm, "s").wait()


def test_a_revert_restores_and_a_power_cycle_does_not(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    earlier = guest.write_pattern("data0", 0, 8192, 1)
    snapshot = bench.driver.snapshot(vm, "s", memory=True).wait()
    boot = guest.boot()
    later = guest.write_pattern("data0", 0, 8192, 2)
    bench.driver.stop(vm, StopMode.FORCE).wait()
    bench.driver.start(vm).wait()
    guest.wait_up()
    assert guest.hash_disk("data0", 0, 8192) == later

    bench.driver.revert(vm, snapshot).wait()

    assert guest.hash_disk("data0", 0, 8192) == earlier
    assert guest.boot().boot_id == boot.boot_id


def test_every_node_of_a_branched_tree_keeps_its_own_data(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    hashes, ids = {}, {}
    for number in (1, 2, 3):
        guest.write_pattern("data0", number * 4096, 4096, number)
        hashes[number] = guest.hash_disk("data0", 0, 65536)
        ids[number] = bench.driver.snapshot(vm, f"s{number}").wait()
    bench.driver.revert(vm, ids[2]).wait()
    guest.wait_up()
    guest.write_pattern("data0", 8 * 4096, 4096, 8)
    hashes[4] = guest.hash_disk("data0", 0, 65536)
    ids[4] = bench.driver.snapshot(vm, "s4").wait()

    for gone in (2, 1):
        bench.driver.delete_snapshot(vm, ids[gone]).wait()
        assert guest.hash_disk("data0", 0, 65536) == hashes[4]
    for kept in (3, 4):
        bench.driver.revert(vm, ids[kept]).wait()
        guest.wait_up()
        assert guest.hash_disk("data0", 0, 65536) == hashes[kept]


@pytest.mark.parametrize("fault", ["kill", "cut", "abort"])
def test_a_failed_migration_leaves_the_source_running_and_the_target_clean(bench: Bench, fault: str) -> None:
    vm, _, guest = bench.boot(storage="local")
    boot, clean = guest.boot().boot_id, bench.observers.host("b").inventory()
    migrating = bench.driver.migrate(vm, "b", MigrateOptions(copy_storage=True, bandwidth_mib_s=4))
    bench.sleep(1.0)
    assert bench.observers.host("b").inventory() != clean, "the control: nothing was there to clean up"
    if fault == "kill":
        bench.observers.host("b").kill_vm(vm)
    elif fault == "abort":
        migrating.abort()
    if fault == "cut":
        with bench.observers.host("a").cut_link_to("b"), pytest.raises(DriverError):
            migrating.wait()
    else:
        with pytest.raises(DriverError):
            migrating.wait()

    assert bench.observers.host("b").inventory() == clean
    assert guest.boot().boot_id == boot
    bench.driver.migrate(vm, "b", MigrateOptions(copy_storage=True)).wait()
    assert guest.boot().boot_id == boot
    assert bench.driver.get(vm).host == "b"


def test_a_vm_of_another_owner_is_not_ours(bench: Bench) -> None:
    before = bench.everything()
    with bench.observers.host("a").create_canary("canary") as canary:
        assert bench.driver.list() == ()
        for call in (bench.driver.get, bench.driver.start, bench.driver.delete):
            with pytest.raises(NotFound):
                call(canary.uuid)
        bench.driver.reclaim("canary")
        assert bench.observers.host("a").domains()[0].running
    assert bench.everything() == before


def test_reclaim_takes_everything_of_that_name_and_nothing_else(bench: Bench) -> None:
    before = bench.everything()
    other, _ = bench.create("mine-10")
    with_other = bench.everything()
    vm, _, _ = bench.boot(name="mine-1")
    volume = bench.driver.create_volume("mine-1-volume", DiskSpec(MIB, "v")).wait()
    bench.driver.attach_volume(vm, volume).wait()

    bench.driver.reclaim("mine-1-volume")
    bench.driver.reclaim("mine-1")

    assert bench.everything() == with_other
    bench.driver.delete(other).wait()
    assert bench.everything() == before


def test_a_management_restart_leaves_vms_alone_and_ends_jobs(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    boot = guest.boot().boot_id
    migrating = bench.driver.migrate(vm, "b", SLOW)
    bench.observers.host("a").restart_management()
    with pytest.raises(HostUnreachable):
        migrating.wait()
    assert guest.boot().boot_id == boot
    bench.driver.migrate(vm, "b").wait()


def test_faults_that_cannot_fire_say_so(bench: Bench) -> None:
    probe = bench.observers.host("a")
    with pytest.raises(FaultNotFired):
        probe.kill_vm("nobody")
    with pytest.raises(FaultNotFired), probe.cut_link_to("a"):
        pass
    with pytest.raises(FaultNotFired), probe.fill_storage("nowhere"):
        pass


def test_the_equivalent_driver_differs_and_is_legal(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(equivalent=True)
    vm, _, _ = bench.boot()
    with pytest.raises(InvalidState):
        bench.driver.start(vm)
    bench.driver.delete(vm).wait()
    bench.driver.delete(vm).wait()
