"""Guests: what a boot changes, what a power cut loses, and what the agent answers."""

from __future__ import annotations

import json

import pytest

from conformance.errors import GuestSilent, ProbeFailed
from conformance.model import RebootMode, StopMode
from conformance.observers.guest import Guest
from tests.simulated.conftest import Bench


def test_each_boot_is_new_and_counted(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    first = guest.boot()
    bench.driver.reboot(vm).wait()
    second = guest.wait_new_boot(first)

    assert second.boot_id != first.boot_id
    assert (first.boots, second.boots) == (1, 2)
    assert second.clean


def test_a_reset_is_not_clean(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    first = guest.boot()
    bench.driver.reboot(vm, RebootMode.HARD).wait()
    assert not guest.wait_new_boot(first).clean


def test_ram_is_lost_and_disks_are_kept_over_a_power_cut(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    guest.put_ram("key", "value")
    written = guest.write_pattern("data0", 0, 8192, 7)
    bench.driver.stop(vm, StopMode.FORCE).wait()
    bench.driver.start(vm).wait()
    guest.wait_up()

    assert guest.get_ram("key") is None
    assert guest.hash_disk("data0", 0, 8192) == written


def test_a_hung_guest_answers_nobody(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    serial = Guest(bench.observers.serial_channel(vm))
    assert serial.boot() == guest.boot() or serial.boot().boot_id == guest.boot().boot_id
    guest.hang()

    assert not guest.answers()
    with pytest.raises(GuestSilent):
        serial.boot()


def test_a_panicked_guest_executes_nothing(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    guest.panic()
    bench.sleep(0.1)
    before = bench.observers.host("a").domains()[0].vcpu_seconds
    assert not guest.answers()
    assert bench.driver.get(vm).power == "crashed"
    assert before > 0


def test_the_agent_says_what_is_wrong(bench: Bench) -> None:
    _, _, guest = bench.boot()
    with pytest.raises(ProbeFailed, match="no disk nowhere"):
        guest.hash_disk("nowhere", 0, 4096)
    with pytest.raises(ProbeFailed, match="unknown verb"):
        guest.ask("sing")


def test_a_torn_slot_is_not_read_over(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    guest.start_writer("data0", 0, 8, 5)
    bench.sleep(0.1)
    status = guest.stop_writer()
    assert guest.newest_written("data0", 0, 8) == status.acknowledged > 8

    _, domain = bench.driver.hypervisor.domain(vm)
    layer = bench.world.hosts["a"].files.layer(domain.config.disks[1].path)
    layer.blocks[2] = layer.blocks[2][:100] + b"!" + layer.blocks[2][101:]

    with pytest.raises(ProbeFailed, match="torn"):
        guest.newest_written("data0", 0, 8)


def test_the_clocks_stand_still_while_paused_and_the_wall_clock_is_set_right(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    before = guest.clocks()
    bench.driver.pause(vm).wait()
    bench.sleep(10.0)
    bench.driver.resume(vm).wait()
    after = guest.clocks()

    assert after.monotonic_ns - before.monotonic_ns < 1e9
    assert after.realtime_ns - before.realtime_ns > 9e9


def test_replies_are_one_line_of_json(bench: Bench) -> None:
    vm, _, _ = bench.boot()
    _, domain = bench.driver.hypervisor.domain(vm)
    assert domain.process is not None
    assert domain.process.guest is not None
    reply = domain.process.guest.agent.handle("clocks")
    assert "\n" not in reply
    assert json.loads(reply)["ok"] is True
