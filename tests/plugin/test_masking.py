"""Whatever the lab files name as a secret is known to the mask, wherever it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.lab.inventory import Target, WinrmShell
from conformance.plugin import masking
from labs.simulated.lab import SimulatedLab


def test_secrets_of_targets_and_hosts_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_LOGIN", "from-the-environment")
    monkeypatch.setenv("HOST_LOGIN", "of-the-host")
    files = [tmp_path / name for name in ("target", "host")]
    for file in files:
        file.write_text(f"from-the-file-of-the-{file.name}\n")
    lab = SimulatedLab.up(7, tmp_path, lambda _: None)
    options = {"password_env": "MY_LOGIN", "password_file": str(files[0]), "password": "typed-in"}
    shell = WinrmShell(url="https://hv1/wsman", user="lab", password_env="HOST_LOGIN", password_file=files[1])
    lab = lab.model_copy(
        update={
            "targets": [Target(slug="t", driver="x", hosts=["a"], options=options)],
            "hosts": [lab.hosts[0].model_copy(update={"shell": shell})],
        }
    )
    mask = masking.of_run([lab])
    for secret in (
        "from-the-environment",
        "from-the-file-of-the-target",
        "typed-in",
        "of-the-host",
        "from-the-file-of-the-host",
    ):
        assert mask(f"<{secret}>") == "<***>", secret
    assert mask(str(files[0])) == str(files[0]), "where a secret is kept is none"


def test_a_file_that_is_not_there_is_no_secret(tmp_path: Path) -> None:
    lab = SimulatedLab.up(7, tmp_path, lambda _: None)
    target = Target(slug="t", driver="x", hosts=["a"], options={"password_file": str(tmp_path / "none")})
    assert masking.of_run([lab.model_copy(update={"targets": [target]})])("text") == "text"
