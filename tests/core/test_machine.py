"""Deadlines of a machine's probes follow from how fast the lab was measured to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.machine import Machine, Pace
from conformance.model import NicSpec, VmSpec
from labs.simulated import SimulatedLab

NIC = NicSpec("net1", "52:54:00:00:00:01")


@pytest.mark.parametrize(("boot_seconds", "request_s", "boot_s"), [(0.5, 5, 15), (13, 52, 156)])
def test_a_guest_on_a_slow_lab_has_more_time(
    boot_seconds: float, request_s: float, boot_s: float, tmp_path: Path
) -> None:
    lab = SimulatedLab.up(0, tmp_path, print)
    observers = SimulatedLab.observe(lab)
    machine = Machine("id", VmSpec("vm", "image", nics=(NIC,)), "uuid", lab, observers, Pace(boot_seconds))

    guests = (machine.guest, machine.guest_on(NIC), machine.serial)

    assert [(guest.timeout_s, guest.boot_s) for guest in guests] == [(request_s, boot_s)] * 3
    observers.close()
