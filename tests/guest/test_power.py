"""Which boots count, which ends are clean, and how the guest goes down."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.errors import GuestSilent
from conformance.guest import GuestImages
from conformance.observers.guest import Boot
from conformance.waiting import holds_for, until
from tests.guest.vm import OVMF, Vm, overlay, running

pytestmark = pytest.mark.lab


def test_the_counter_counts_every_boot_and_only_orderly_ends_are_clean(images: GuestImages, tmp_path: Path) -> None:
    root = overlay(images, tmp_path)
    ids = set()

    def came_up(vm: Vm, boots: int, *, clean: bool, before: Boot | None = None) -> Boot:
        boot = vm.wait_up(before)
        assert (boot.boots, boot.clean) == (boots, clean)
        assert boot.boot_id not in ids
        ids.add(boot.boot_id)
        return boot

    with running(images, tmp_path, root) as vm:
        first = came_up(vm, 1, clean=True)
        vm.guest.reboot()
        second = came_up(vm, 2, clean=True, before=first)
        vm.qmp("system_reset")
        came_up(vm, 3, clean=False, before=second)
        vm.guest.power_off()
        assert vm.wait_exit() == 0
    with running(images, tmp_path, root) as vm:
        came_up(vm, 4, clean=True)
        # and killed by leaving
    with running(images, tmp_path, root) as vm:
        came_up(vm, 5, clean=False)
        vm.guest.ignore_power_button()
        vm.qmp("system_powerdown")
        holds_for("the power button is ignored", vm.guest.answers, seconds=1)
        vm.guest.ignore_power_button(False)
        vm.qmp("system_powerdown")
        assert vm.wait_exit() == 0


def test_hang_and_panic(images: GuestImages, tmp_path: Path) -> None:
    with running(images, tmp_path, None) as vm:
        boot = vm.wait_up()
        assert (boot.boots, boot.clean) == (0, False), "no root disk, no count"
        assert vm.guest.identity().image_id == images.image_id, "then from the initrd"
        vm.guest.hang()
        assert not vm.guest.answers(0.5)
        with pytest.raises(GuestSilent):
            vm.ask_serial("boot", timeout_s=0.5)
        vm.qmp("system_powerdown")
        holds_for("the hung guest stays on", lambda: vm.process.poll() is None, seconds=1)
        vm.qmp("system_reset")
        second = vm.wait_up(boot)
        assert second.boot_id != boot.boot_id
        vm.guest.panic()
        until("the panic on the console", lambda: b"Kernel panic" in vm.drain_console(), seconds=5)
        assert not vm.guest.answers(0.5)
        assert vm.process.poll() is None


def test_boot_from_a_bios_disk(images: GuestImages, tmp_path: Path) -> None:
    with running(images, tmp_path, overlay(images, tmp_path), boot="bios") as vm:
        assert vm.wait_up().boots == 1
        identity = vm.guest.identity()
        assert (identity.firmware, identity.image_id) == ("bios", images.image_id)


def test_boot_from_a_uefi_disk(images: GuestImages, tmp_path: Path) -> None:
    if not OVMF.exists():
        pytest.fail(f"{OVMF} is missing: sudo apt-get install ovmf")
    with running(images, tmp_path, overlay(images, tmp_path, "uefi"), boot="uefi") as vm:
        assert vm.wait_up().boots == 1
        identity = vm.guest.identity()
        assert (identity.firmware, identity.image_id) == ("uefi", images.image_id)
