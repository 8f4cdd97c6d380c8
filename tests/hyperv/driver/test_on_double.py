"""The driver on the double where the contract's suites do not reach: generations, fallbacks, logins, half-made VMs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from conformance.driver import LIVE
from conformance.errors import (
    AccessDenied,
    Busy,
    DriverError,
    Exists,
    InvalidRequest,
    InvalidState,
    LabFileError,
    NotFound,
    Timeout,
    Unsupported,
)
from conformance.lab import labs
from conformance.lab.inventory import Target
from conformance.model import MIB, Capability, DiskSpec, Firmware, MigrateOptions, NicSpec, PowerState, StopMode
from conformance.observers.frames import udp
from conformance.waiting import until
from drivers.defects import REGISTRY, apply
from drivers.hyperv import naming
from labs.hyperv_double.model import cmdlets
from tests.hyperv.conftest import Bench

MIGRATIONS = {
    Capability.MIGRATE_LIVE,
    Capability.MIGRATE_LIVE_STORAGE,
    Capability.MIGRATE_PAUSED,
    Capability.MIGRATE_COLD,
    Capability.MIGRATE_ABORT,
}


# generations


def test_a_generation_1_vm_is_what_the_driver_says(hv: Bench) -> None:
    vm, spec, guest = hv.boot(image="hvconform-bios")

    assert guest.identity().firmware == "bios"
    assert guest.identity().smbios_uuid == hv.driver.get(vm).uuid
    (seen,) = [domain for domain in hv.observers.host("a").domains() if domain.name == spec.name]
    assert seen.uuid == hv.driver.get(vm).uuid
    record = next(iter(hv.running.site.vms["a"].values()))
    assert [place.controller for place in record.places.values()] == ["IDE", "SCSI"]


def test_nics_of_generation_1_are_plugged_while_it_is_off(hv: Bench) -> None:
    vm, _, _ = hv.boot(firmware=Firmware.BIOS, image="hvconform-bios")
    nic = NicSpec("net2", "52:54:00:02:00:01")
    for refused in (
        lambda: hv.driver.attach_nic(vm, nic),
        lambda: hv.driver.detach_nic(vm, hv.driver.get(vm).nics[0].id),
    ):
        with pytest.raises(Unsupported):
            refused().wait()

    hv.driver.stop(vm, StopMode.FORCE).wait()
    id = hv.driver.attach_nic(vm, nic).wait()
    assert [state.network for state in hv.driver.get(vm).nics] == ["net1", "net2"]
    hv.driver.detach_nic(vm, id).wait()
    assert len(hv.driver.get(vm).nics) == 1


# checkpoints


def test_a_host_that_does_not_know_automatic_checkpoints_makes_vms(hv: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    known = cmdlets.REGISTRY["set-vm"]
    without = known.parameters - {"automaticcheckpointsenabled"}
    monkeypatch.setitem(cmdlets.REGISTRY, "set-vm", dataclasses.replace(known, parameters=without))

    _, spec, guest = hv.boot()

    assert guest.boot().boots == 1
    (record,) = hv.running.site.vms["a"].values()
    assert spec.name in record.notes
    assert record.checkpoint_type == "Production"


def test_a_fallback_to_standard_is_an_error_where_quiescing_was_asked_for(hv: Bench) -> None:
    vm, _, guest = hv.boot()
    hv.knobs().production_falls_back = True
    before = guest.boot()

    with pytest.raises(DriverError):
        hv.driver.snapshot(vm, "s1", quiesce=True).wait()

    assert hv.driver.snapshots(vm) == []
    assert guest.boot().boot_id == before.boot_id


def test_a_fallback_to_standard_is_reverted_to_without_its_memory(hv: Bench) -> None:
    vm, _, guest = hv.boot()
    hv.knobs().production_falls_back = True
    written, before = guest.write_pattern("data0", 0, MIB, seed=1), guest.boot()
    snapshot = hv.driver.snapshot(vm, "s1").wait()
    assert [state.memory for state in hv.driver.snapshots(vm)] == [False]
    guest.write_pattern("data0", 0, MIB, seed=2)

    hv.driver.revert(vm, snapshot).wait()

    assert guest.wait_new_boot(before).boot_id != before.boot_id
    assert guest.hash_disk("data0", 0, MIB) == written


def test_a_checkpoint_of_another_kind_than_asked_for_is_removed_and_reported(hv: Bench) -> None:
    vm, _, _ = hv.boot()
    record = hv.running.site.vms["a"][vm]
    # somebody else's setting wins between ours and the checkpoint
    type(record).checkpoint_type = property(lambda _: "Production", lambda _self, _value: None)  # type: ignore[assignment]
    try:
        with pytest.raises(DriverError, match="a Standard checkpoint was asked for"):
            hv.driver.snapshot(vm, "s1", memory=True).wait()
    finally:
        del type(record).checkpoint_type
        record.checkpoint_type = "Production"

    assert hv.driver.snapshots(vm) == []


def test_a_paused_vm_with_memory_comes_back_paused(hv: Bench) -> None:
    vm, _, guest = hv.boot()
    before = guest.boot()
    hv.driver.pause(vm).wait()
    snapshot = hv.driver.snapshot(vm, "s1", memory=True).wait()
    hv.driver.resume(vm).wait()

    hv.driver.revert(vm, snapshot).wait()

    assert hv.driver.get(vm).power is PowerState.PAUSED
    hv.driver.resume(vm).wait()
    assert guest.wait_up().boot_id == before.boot_id


def test_an_image_without_a_boot_loader_is_refused(hv: Bench) -> None:
    images = [image.model_copy(update={"boot_loader": image.name != "hvconform"}) for image in hv.lab.images]
    driver = labs.connect(hv.lab.model_copy(update={"images": images}), hv.lab.targets[0])
    try:
        with pytest.raises(InvalidRequest, match="hvconform has no boot loader; Hyper-V boots no kernel by itself"):
            driver.create(hv.spec())
    finally:
        driver.close()


def test_a_name_is_taken_once(hv: Bench) -> None:
    vm, _ = hv.create()
    hv.driver.snapshot(vm, "same").wait()
    with pytest.raises(Exists):
        hv.driver.snapshot(vm, "same")


def test_a_volume_that_a_checkpoint_holds_stays_attached(hv: Bench) -> None:
    vm, _, guest = hv.boot()
    volume = hv.driver.create_volume("vol", DiskSpec(16 * MIB, "vol0")).wait()
    hv.driver.attach_volume(vm, volume).wait()
    hv.driver.snapshot(vm, "s1").wait()
    with pytest.raises(InvalidState):
        hv.driver.detach_volume(vm, volume)

    # and what was written since is in it when the VM is gone
    written = guest.write_pattern("vol0", 0, MIB, seed=3)
    hv.driver.delete(vm).wait()
    other, _, fresh = hv.boot()
    hv.driver.attach_volume(other, volume).wait()
    assert fresh.hash_disk("vol0", 0, MIB) == written
    hv.driver.detach_volume(other, volume).wait()
    hv.driver.delete_volume(volume).wait()


# addresses


def test_addresses_come_from_the_guest_or_from_the_hosts_neighbours(hv: Bench) -> None:
    vm, spec, _ = hv.boot()
    lease = until("a lease", lambda: hv.observers.peer("net1").lease(spec.nics[0].mac) or "", seconds=5)
    assert lease in hv.driver.addresses(vm)

    hv.knobs().no_kvp = True
    assert list(hv.driver.addresses(vm)) == [lease]
    hv.knobs().neighbours = False
    assert hv.driver.addresses(vm) == ()


# migration


def test_what_cannot_log_in_to_the_target_is_not_offered(make_bench: Callable[..., Bench]) -> None:
    hv = make_bench()
    vm, _ = hv.create()
    for host in ("a", "b"):
        hv.knobs(host).migration_authentication = "CredSSP"
    driver = hv.connect()
    try:
        assert not MIGRATIONS & set(driver.capabilities())
        with pytest.raises(Unsupported, match="cannot be passed on"):
            driver.migrate(vm, "b", LIVE)
    finally:
        driver.close()


def test_hosts_that_take_no_migrations_are_not_offered_any(make_bench: Callable[..., Bench]) -> None:
    hv = make_bench()
    hv.knobs("b").migration_enabled = False
    driver = hv.connect()
    try:
        assert not MIGRATIONS & set(driver.capabilities())
    finally:
        driver.close()


def test_a_second_hop_without_credentials_is_refused_before_anything_moves(hv: Bench) -> None:
    vm, _, guest = hv.boot()
    before, boot = hv.inventory(), guest.boot()
    hv.knobs().no_credentials = True

    with pytest.raises(AccessDenied) as refusal:
        hv.driver.migrate(vm, "b").wait()

    assert refusal.value.operation == "migrate"
    assert "0x8009030E" in refusal.value.message
    assert hv.inventory() == before
    assert guest.boot().boot_id == boot.boot_id


def test_what_the_target_lacks_is_said_before_anything_moves(hv: Bench) -> None:
    vm, _, _ = hv.boot()
    hv.running.site.world.hosts["b"].memory_mib = 64
    before = hv.inventory()

    with pytest.raises(InvalidRequest, match="not enough memory"):
        hv.driver.migrate(vm, "b").wait()

    assert hv.inventory() == before


def test_the_throttle_of_a_slow_migration_goes_with_it(hv: Bench) -> None:
    vm, _, _ = hv.boot()
    moving = hv.driver.migrate(vm, "b", MigrateOptions(bandwidth_mib_s=4))
    assert any(entry.name == f"policy hvc-{vm}" for entry in hv.inventory())
    moving.abort()
    with pytest.raises(DriverError, match="aborted on request"):
        moving.wait()
    assert not any("policy" in entry.name for entry in hv.inventory())


# names, owners, leftovers


@pytest.mark.parametrize("name", ["[a]*?", "$(Stop-Computer)", "`whoami`; '\"", "grün-😀", "-Name x"])
def test_a_name_is_nothing_but_a_name(hv: Bench, name: str) -> None:
    other, _ = hv.create("a")
    vm, _ = hv.create(name)
    assert hv.driver.find(name) == vm
    hv.driver.start(vm).wait()
    hv.driver.delete(vm).wait()
    assert hv.driver.list() == (other,)


def test_a_vm_of_another_target_is_not_ours(hv: Bench) -> None:
    vm, _ = hv.create()
    hv.running.site.vms["a"][vm].notes = naming.notes("another", "x")
    assert hv.driver.list() == ()
    with pytest.raises(NotFound):
        hv.driver.delete(vm)


def test_a_create_that_nobody_waits_for_is_reclaimed_by_its_name(hv: Bench) -> None:
    before = hv.inventory()
    spec = hv.spec()
    making = hv.driver.create(spec)
    assert hv.inventory() != before

    other = hv.connect()
    other.reclaim(spec.name)
    other.close()

    assert hv.inventory() == before
    with pytest.raises(DriverError):
        making.wait()
    assert hv.inventory() == before


def test_a_create_that_is_given_up_leaves_nothing(hv: Bench) -> None:
    before = hv.inventory()
    world = hv.running.site.world
    spec = hv.spec(storage="local")
    making = hv.driver.create(spec)
    world.hosts["a"].spaces["local"].full = True
    with pytest.raises(DriverError):
        making.wait()
    world.hosts["a"].spaces["local"].full = False

    assert hv.inventory() == before


def test_a_guest_that_does_not_follow_is_not_cut_off(hv: Bench) -> None:
    vm, _, guest = hv.boot()
    guest.ignore_power_button()
    with pytest.raises(Timeout, match="waiting for the guest"):
        hv.driver.stop(vm).wait(400)
    assert hv.driver.get(vm).power is PowerState.RUNNING


def test_busy_while_disks_merge(hv: Bench) -> None:
    vm, _, _ = hv.boot()
    snapshot = hv.driver.snapshot(vm, "s1").wait()
    removing = hv.driver.delete_snapshot(vm, snapshot)
    with pytest.raises(Busy):
        hv.driver.snapshot(vm, "s2")
    removing.wait()


# guards


def forged(address: str) -> bytes:
    return udp(source_mac="02:00:00:00:be:ef", source_ip=address, destination_ip="255.255.255.255", payload=b"forged")


def test_a_guard_that_would_be_half_a_guard_is_refused(hv: Bench) -> None:
    with pytest.raises(Unsupported):
        hv.driver.create(hv.spec(nics=(NicSpec("net1", "52:54:00:03:00:01", anti_spoof=True),)))
    assert Capability.ANTI_SPOOF not in hv.driver.capabilities()


@pytest.mark.parametrize("guarded", [True, False])
def test_the_guard_of_macs(make_bench: Callable[..., Bench], guarded: bool) -> None:
    hv = make_bench(guard="mac")
    assert Capability.ANTI_SPOOF in hv.driver.capabilities()
    nic = NicSpec("net1", "52:54:00:04:00:01", anti_spoof=guarded)
    _, _, guest = hv.boot(nics=(nic,))
    with hv.observers.peer("net1").sniff() as sniffer:
        guest.send_frame(nic.mac, forged("10.87.0.9"))
        seen = [frame for frame in sniffer.frames() if b"forged" in frame.payload]
    assert bool(seen) is not guarded


# what a target says and needs


def test_the_double_says_that_it_is_one(hv: Bench) -> None:
    assert hv.driver.facts().double.startswith("hvconform")


def test_options_are_checked_with_the_file(hv: Bench) -> None:
    target = hv.lab.targets[0]

    def broken(**options: object) -> Target:
        return target.model_copy(update={"options": {**target.options, **options}})

    for options, said in (
        ({"endpoints": {"a": "http://x/wsman"}}, "no endpoint for b"),
        ({"guard": "everything"}, "guard"),
        ({"call_seconds": 0}, "call_seconds"),
    ):
        with pytest.raises(LabFileError, match=said):
            labs.connect(hv.lab, broken(**options))


def test_a_defect_of_this_driver_is_planted_in_it_and_in_no_other(hv: Bench) -> None:
    for name in (name for name, defect in REGISTRY.items() if defect.only == "hyperv"):
        planted = apply(hv.connect(), name)
        assert planted.name == "hyperv"
        planted.close()
    assert type(hv.driver).__name__ == "HypervDriver"
