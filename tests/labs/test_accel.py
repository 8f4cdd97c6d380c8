"""Whether KVM works is found out by running a kernel, so a kernel that does not come up must mean no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.guest import image
from conformance.paths import cache_dir
from labs.nested import accel

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def kernel() -> Path:
    return image.build(cache_dir()).kernel


def test_a_kernel_that_comes_up_means_yes(kernel: Path) -> None:
    assert accel.why_not(kernel, device=Path("/dev/null"), accelerator="tcg") == ""


@pytest.mark.parametrize("then", ["exec sleep 60", "exit 0", "echo error: KVM_RUN >&2; exit 1"])
def test_a_kernel_that_does_not_come_up_means_no(
    tmp_path: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    emulator = tmp_path / "emulator"
    emulator.write_text(f"#!/bin/sh\necho Linux version\n{then}\n")
    emulator.chmod(0o755)
    monkeypatch.setattr(accel, "EMULATOR", str(emulator))
    monkeypatch.setattr(accel, "_SILENCE_S", 0.3)

    reason = accel.why_not(kernel, device=Path("/dev/null"))

    assert "did not come up" in reason
    assert ("KVM_RUN" if "KVM_RUN" in then else "Linux version") in reason


def test_no_device_means_no(tmp_path: Path, kernel: Path) -> None:
    assert "may not be used" in accel.why_not(kernel, device=tmp_path / "kvm")


def test_the_answer_is_kept_for_this_boot_only(tmp_path: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["first", "second"])
    monkeypatch.setattr(accel, "why_not", lambda _: next(answers))

    assert accel.probe(tmp_path, kernel).reason == "first"
    assert accel.probe(tmp_path, kernel).reason == "first"
    kept = json.loads((tmp_path / "kvm-probe.json").read_text())
    kept["key"]["boot"] = "another"
    (tmp_path / "kvm-probe.json").write_text(json.dumps(kept))
    assert accel.probe(tmp_path, kernel).reason == "second"
