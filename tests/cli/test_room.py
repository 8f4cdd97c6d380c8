"""A disk that fills up: the run ends in order, and what had run is not lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import ONE, hvconform

pytestmark = pytest.mark.lab  # a small disk takes root to mount

FILLS = """
@pytest.mark.requirement("reboot.exactly-once")
def test_fills_the_disk(machine):
    import pathlib, threading
    out = pathlib.Path(r"OUT")
    for _ in range(1200):  # the other test is over; by the machine's clock, and not by the simulated world's
        if any('"pass"' in part.read_text() for part in (out / "record").glob("*.jsonl")):
            break
        threading.Event().wait(0.05)
    with (out / "big").open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    threading.Event().wait(60)
"""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 48 MiB."""
    monkeypatch.setenv("HVCONFORM_STATE", str(tmp_path / "state"))
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def simulated(suite: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return hvconform("run", "--lab", "simulated", "--target", "simulated", "--suites", suite, "--out", out)


def fill(folder: Path, leave: int) -> None:
    free = os.statvfs(folder)
    (folder / "other").write_bytes(bytes(free.f_bavail * free.f_frsize - leave))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_run_that_fills_its_disk_ends_in_order(disk: Path, tmp_path: Path, workers: str) -> None:
    out, suite = disk / "out", tmp_path / "test_fills.py"
    suite.write_text(ONE.replace("BODY", "pass") + FILLS.replace("OUT", str(out)))

    done = hvconform("run", "--lab", "simulated", "--target=simulated", "--suites", suite, "--out", out, "-n", workers)

    assert done.returncode == 6, done.stderr
    assert f"the disk of {out} was full" in done.stderr
    assert f"try: free some space, hvconform report {out}" in done.stderr
    assert "Traceback" not in done.stderr
    cells = json.loads((out / "matrix.json").read_text())["cells"]
    assert {cell["requirement"]: cell["verdict"] for cell in cells}["boot.correct-image"] == "pass"
    (cut,) = [cell for cell in cells if cell["requirement"] == "reboot.exactly-once"]
    assert cut["message"] == "the run was interrupted during this test"
    assert not list((tmp_path / "state" / "ledgers").rglob("*.jsonl")), "something was left on the hosts"


def test_disk_that_is_full_is_one_message_before_anything_starts(disk: Path, tmp_path: Path) -> None:
    suite = tmp_path / "test_one.py"
    suite.write_text(ONE.replace("BODY", "pass"))
    fill(disk, leave=1 << 20)

    done = simulated(suite, disk / "out")

    assert done.returncode == 6
    assert "1.0 MiB are left on its disk" in done.stderr
    assert "try: free some space, or give another --out" in done.stderr


def test_state_that_cannot_be_kept_is_one_message(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = tmp_path / "test_one.py"
    suite.write_text(ONE.replace("BODY", "pass"))
    monkeypatch.setenv("HVCONFORM_STATE", str(disk))
    fill(disk, leave=0)

    done = simulated(suite, tmp_path / "out")

    assert done.returncode == 6
    assert done.stderr.startswith("hvconform: the ledger ")
    assert "or set HVCONFORM_STATE to another folder" in done.stderr
    assert "Traceback" not in done.stderr
