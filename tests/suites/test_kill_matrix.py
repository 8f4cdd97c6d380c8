"""Each seeded defect is caught by each requirement that it names; the driver without it keeps them all.

Every defect runs in a process of its own: what one leaves behind in the simulated world must not hide another.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.contract import load
from conformance.lab.inventory import LabInventory
from conformance.record import Verdict
from drivers.defects import REGISTRY
from labs.hyperv_double.lab import inventory as double
from labs.simulated import SimulatedLab
from tests.suites.defective import verdicts

SEEDED = {name: defect for name, defect in REGISTRY.items() if defect.only in ("", "simulated")}
CAUGHT = [name for name, defect in SEEDED.items() if defect.caught_by]

ON_THE_DOUBLE = [name for name, defect in REGISTRY.items() if defect.only == "hyperv"] + [
    "noop-reboot",
    "stop-no-grace",
    "pause-noop",
    "suspend-stale-metadata",
    "revert-noop",
    "snapshot-memory-dropped",
    "attach-error-swallowed",
    "delete-noop",
    "wildcard-find",
    "hot-nic-wrong-mac",
    "stale-host-reported",
    "lying-caps",
    "undeclared-accepted",
]
"""Those of Hyper-V's own history, and one of each sort that wraps any driver."""


def simulated(folder: Path) -> LabInventory:
    return SimulatedLab.up(0, folder / "lab", lambda _: None)


@pytest.mark.parametrize("defect", CAUGHT)
def test_a_defect_is_caught(defect: str, tmp_path: Path) -> None:
    caught_by = REGISTRY[defect].caught_by
    found = verdicts(tmp_path, simulated(tmp_path), defect, caught_by)
    assert {name: Verdict.FAIL in seen for name, seen in found.items()} == dict.fromkeys(caught_by, True)


@pytest.mark.parametrize("defect", ON_THE_DOUBLE)
def test_a_defect_is_caught_through_another_driver(defect: str, tmp_path: Path) -> None:
    caught_by = REGISTRY[defect].caught_by
    found = verdicts(tmp_path, double("double-with-defect"), defect, caught_by)
    assert {name: Verdict.FAIL in seen for name, seen in found.items()} == dict.fromkeys(caught_by, True)


def test_the_driver_without_a_defect_keeps_them_all(tmp_path: Path) -> None:
    requirements = tuple(sorted({name for defect in SEEDED.values() for name in defect.caught_by}))
    found = verdicts(tmp_path, simulated(tmp_path), "", requirements)
    assert found == {name: {Verdict.PASS} for name in requirements}


def test_the_other_driver_without_a_defect_keeps_them_all(tmp_path: Path) -> None:
    requirements = tuple(sorted({name for defect in ON_THE_DOUBLE for name in REGISTRY[defect].caught_by}))
    found = verdicts(tmp_path, double("double-without-defect"), "", requirements)
    assert found == {name: {Verdict.PASS} for name in requirements}


def test_defects_name_requirements_of_the_contract() -> None:
    known = load().requirements
    assert not {name for defect in REGISTRY.values() for name in defect.caught_by} - set(known)
