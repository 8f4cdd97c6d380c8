"""A guest's wall clock when nobody but its own side has set it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from conformance.guest import GuestImages
from conformance.waiting import until
from tests.guest.vm import running

pytestmark = pytest.mark.lab

STALL_SECONDS = 5.0  # several times what the kernel loses in QEMU by itself, before it has a clock to tell that by


@pytest.mark.parametrize("rtc", [True, False], ids=["rtc", "no-rtc"])
def test_a_machine_that_waits_for_a_processor_while_its_kernel_counts_ticks(
    images: GuestImages, tmp_path: Path, rtc: bool
) -> None:
    log = tmp_path / "log"  # of the kernel, which would come between the agent's words on its own port
    words = images.cmdline.replace("console=ttyS0", "console=ttyS1 ignore_loglevel")
    if not rtc:
        words += " initcall_blacklist=cmos_init"
    with running(images, tmp_path, None, extra=["-append", words, "-serial", f"file:{log}"]) as vm:
        until("the kernel to begin", log.read_bytes, lambda seen: b"Mount-cache" in seen, seconds=20, interval=0.01)
        vm.process.send_signal(signal.SIGSTOP)
        vm.drain_console(STALL_SECONDS)
        vm.process.send_signal(signal.SIGCONT)
        vm.wait_up()

        assert (b"initcall cmos_init blacklisted" in log.read_bytes()) != rtc
        assert vm.guest.wall_clock_error(time.time) < STALL_SECONDS / 2
