"""Defects seeded in the driver of real QEMU guests turn the right cells red, by what guests and hosts show."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.lab.inventory import LabInventory
from conformance.record import Verdict
from tests.suites.defective import verdicts

pytestmark = pytest.mark.lab

SEEDED = {
    "": ("reboot.exactly-once", "snap.point-in-time", "mig.host-reported", "mig.never-two"),
    "noop-reboot": ("reboot.exactly-once",),
    "revert-noop": ("snap.point-in-time",),
    "stop-no-grace": ("stop.graceful-shutdown",),
    "delete-noop": ("del.gone-everywhere",),
    "stale-host-reported": ("mig.host-reported",),
    "libvirt-source-goes-on": ("mig.never-two",),
}
"""Defect, and requirements that it breaks; without one they are kept."""


@pytest.mark.parametrize("defect", SEEDED)
def test_a_defect_is_seen_on_real_guests(defect: str, lab: LabInventory, tmp_path: Path) -> None:
    found = verdicts(tmp_path, lab, defect, SEEDED[defect])
    assert found == {name: {Verdict.FAIL if defect else Verdict.PASS} for name in SEEDED[defect]}
