"""Markers and patterns in the guest's memory."""

from __future__ import annotations

import pytest

from tests.guest.vm import Vm

pytestmark = pytest.mark.lab


def test_markers(vm: Vm) -> None:
    assert vm.guest.get_ram("who") is None
    vm.guest.put_ram("who", "first")
    vm.guest.put_ram("who", "second")
    assert vm.guest.get_ram("who") == "second"


def test_a_held_pattern_is_intact_until_it_is_changed(vm: Vm) -> None:
    assert not vm.guest.ram_intact(5), "nothing is held yet"
    vm.guest.fill_ram(8, 5)
    assert vm.guest.ram_intact(5)
    assert not vm.guest.ram_intact(6)
    vm.guest.fill_ram(8, 6)
    assert not vm.guest.ram_intact(5)
    vm.guest.fill_ram(0, 0)


def test_dirtying_goes_on_while_the_agent_answers(vm: Vm) -> None:
    vm.guest.dirty_ram(16)
    assert vm.guest.memory().total_kib > 0
    vm.guest.dirty_ram(0)
