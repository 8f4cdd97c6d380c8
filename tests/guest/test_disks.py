"""Patterns, hashes and the continuous writer, checked from outside on the very file that is the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from conformance.errors import ProbeFailed
from conformance.guest.pattern import pattern
from conformance.waiting import until
from tests.guest.vm import Vm

pytestmark = pytest.mark.lab

SLOTS_AT, SLOTS = 1 << 20, 8


def test_a_written_pattern_is_on_the_disk_byte_for_byte(vm: Vm, data: Path) -> None:
    expected = pattern(42, 8192, 512 * 1024)
    answered = vm.guest.write_pattern("data0", 8192, 512 * 1024, 42)
    assert answered == hashlib.sha256(expected).hexdigest()
    assert data.read_bytes()[8192:][: len(expected)] == expected
    assert vm.guest.hash_disk("data0", 8192, 512 * 1024) == answered


def test_one_changed_byte_changes_the_hash(vm: Vm, data: Path) -> None:
    before = vm.guest.write_pattern("data0", 3 << 20, 4096, 1)
    with data.open("r+b") as disk:
        disk.seek((3 << 20) + 4095)
        byte = disk.read(1)
        disk.seek((3 << 20) + 4095)
        disk.write(bytes([byte[0] ^ 1]))
    assert vm.guest.hash_disk("data0", 3 << 20, 4096) != before


def test_the_writer_acknowledges_what_is_on_the_disk(vm: Vm) -> None:
    assert vm.guest.newest_written("data0", SLOTS_AT, SLOTS) == 0
    vm.guest.start_writer("data0", SLOTS_AT, SLOTS, 5)
    until("the writer to go round", vm.guest.writer, lambda status: status.acknowledged > 2 * SLOTS, seconds=10)
    acknowledged = vm.guest.writer().acknowledged
    assert vm.guest.newest_written("data0", SLOTS_AT, SLOTS) >= acknowledged
    status = vm.guest.stop_writer()
    assert not status.running
    assert status.errors == 0
    assert vm.guest.newest_written("data0", SLOTS_AT, SLOTS) == status.acknowledged
    vm.guest.start_writer("data0", SLOTS_AT, SLOTS, 5)  # goes on from what is on the disk
    until("the writer to go on", vm.guest.writer, lambda now: now.acknowledged > status.acknowledged, seconds=10)
    vm.guest.stop_writer()


def test_a_second_writer_is_refused(vm: Vm) -> None:
    vm.guest.start_writer("data0", SLOTS_AT, SLOTS, 1000)
    with pytest.raises(ProbeFailed, match="already"):
        vm.guest.start_writer("data0", SLOTS_AT, SLOTS, 1000)
    vm.guest.stop_writer()


def test_a_torn_slot_is_seen(vm: Vm, data: Path) -> None:
    at = 2 << 20
    vm.guest.start_writer("data0", at, SLOTS, 1)
    until("every slot to be written", vm.guest.writer, lambda status: status.acknowledged > SLOTS, seconds=10)
    vm.guest.stop_writer()
    assert vm.guest.newest_written("data0", at, SLOTS) > SLOTS
    with data.open("r+b") as disk:  # the second half of one slot, as if the power had gone in the middle
        disk.seek(at + 3 * 4096 + 2048)
        disk.write(bytes(2048))
    with pytest.raises(ProbeFailed, match="slot 3 is torn"):
        vm.guest.newest_written("data0", at, SLOTS)


def test_a_stalled_disk_stalls_nothing_but_its_writer(vm: Vm) -> None:
    vm.guest.start_writer("data0", SLOTS_AT, SLOTS, 5)
    vm.qmp("block_set_io_throttle", device="data", bps=0, bps_rd=0, bps_wr=0, iops=1, iops_rd=0, iops_wr=0)
    try:
        until("a stall", vm.guest.writer, lambda status: status.longest_stall_ms > 300, seconds=10)
        assert vm.guest.answers(2)
    finally:
        vm.qmp("block_set_io_throttle", device="data", bps=0, bps_rd=0, bps_wr=0, iops=0, iops_rd=0, iops_wr=0)
    until("the writer to go on", vm.guest.writer, lambda status: status.acknowledged > 0, seconds=10)
    assert vm.guest.stop_writer().errors == 0
