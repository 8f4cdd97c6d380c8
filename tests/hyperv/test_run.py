"""A whole run on the double: labelled as one, without its password in anything that is kept, and never as hardware."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import record
from conformance.model import Evidence
from conformance.record import ItemFinished, TargetSeen
from labs.hyperv_double.lab import inventory
from labs.hyperv_double.names import PASSWORD
from labs.hyperv_double.observers import DoubleObservers
from labs.nested.cell import toml
from labs.simulated import world as worlds

SECRET = "s3cret-0f-the-d0uble"


def run(folder: Path, lab: str, requirements: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--pyargs", "suites", "--lab", lab]
    return subprocess.run(
        [*command, "--requirement", requirements, "--out", str(folder / "out")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HVCONFORM_STATE": str(folder / "state"), PASSWORD: SECRET},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_every_result_is_labelled_and_no_secret_is_kept(tmp_path: Path) -> None:
    wanted = "boot.correct-image,boot.image-format-not-probed,err.no-secret-in-error,resize.hot-no-reboot"
    done = run(tmp_path, "hyperv-double", wanted)

    assert done.returncode == 0, done.stdout
    events = list(record.read(tmp_path / "out" / "record"))
    assert {event.evidence for event in events if isinstance(event, TargetSeen)} == {Evidence.OWN_DOUBLE}
    assert {event.requirement: event.verdict for event in events if isinstance(event, ItemFinished)} == {
        "boot.correct-image": "pass",
        "boot.image-format-not-probed": "not-testable-here",
        "err.no-secret-in-error": "pass",
        "resize.hot-no-reboot": "not-claimed",
    }
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in done.stdout + done.stderr
    assert "own-double" in (tmp_path / "out" / "matrix.md").read_text(encoding="utf-8")


def test_a_run_that_claims_hardware_aborts(tmp_path: Path) -> None:
    lab = inventory("claims").model_copy(update={"evidence": Evidence.HARDWARE})
    (tmp_path / "lab.toml").write_text(toml(lab), encoding="utf-8")

    done = run(tmp_path, "lab.toml", "boot.correct-image")

    assert done.returncode == 6
    assert "claims evidence hardware" in done.stdout + done.stderr
    assert not [event for event in record.read(tmp_path / "out" / "record") if isinstance(event, ItemFinished)]


def test_the_last_observers_of_a_process_end_what_it_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    lab = inventory("watched")
    first, second = DoubleObservers(lab), DoubleObservers(lab)
    assert list(tmp_path.iterdir()), "the endpoints keep their accounts' hashes in a folder"

    first.close()
    first.close()
    assert second.host("a").domains() == []
    second.close()

    assert list(tmp_path.iterdir()) == []
    worlds.forget("watched")
