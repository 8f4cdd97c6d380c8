"""Runs the suites on a lab whose driver has a seeded defect, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conformance import record
from conformance.lab.inventory import LabInventory
from conformance.record import ItemFinished, Verdict
from labs.nested.cell import toml


def verdicts(folder: Path, lab: LabInventory, defect: str, requirements: Sequence[str]) -> dict[str, set[Verdict]]:
    """Verdicts by requirement of a run of the lab's first target with this defect; "" seeds none."""
    target = lab.targets[0].model_copy(update={"slug": "with-defect", "defect": defect})
    file = folder / "lab.toml"
    file.write_text(toml(lab.model_copy(update={"targets": [target]})), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--pyargs", "suites"]
    command += ["--lab", str(file), "--requirement", ",".join(requirements), "--provenance", "booted"]
    done = subprocess.run(
        [*command, "--out", str(folder / "out")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HVCONFORM_STATE": str(folder / "state"), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode in (0, 1, 6), done.stdout + done.stderr
    found: dict[str, set[Verdict]] = {}
    for event in record.read(folder / "out" / "record"):
        if isinstance(event, ItemFinished):
            found.setdefault(event.requirement, set()).add(event.verdict)
    return found
