"""Set-up installs all system packages that the parts of the project ask for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from conformance.guest.packages import SYSTEM_PACKAGES
from labs.kvm import requirements
from labs.xen import requirements as xen_requirements

TOOLS = Path(__file__).parent.parent / "tools"
LISTED = {
    line.removeprefix("?")
    for line in (TOOLS / "debian-packages.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
STORAGE = "libvirt-daemon-driver-storage"


def test_the_guest_builder_finds_its_packages() -> None:
    assert not set(SYSTEM_PACKAGES) - LISTED


def test_the_kvm_lab_finds_its_packages() -> None:
    assert not requirements.PACKAGES - LISTED


def test_the_xen_lab_finds_its_packages() -> None:
    assert not xen_requirements.PACKAGES - LISTED


def set_up(folder: Path, *, lacking: str, known: str) -> list[str]:
    """Run set-up on a machine whose package tools are doubles, and whose virtual environment is made; what it called.

    Args:
        lacking: Pattern of the packages that are not there.
        known: Pattern of those that apt has heard of.
    """
    log = folder / "log"
    doubles = {
        "dpkg-query": f'case $4 in {lacking}) exit 1;; *) echo "install ok installed";; esac',
        "apt-cache": f"case $2 in {known}) ;; *) exit 100;; esac",
        "apt-get": f'echo "$@" >> {log}',
        "sudo": 'exec "$@"',
    }
    for name, code in doubles.items():
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "venv" / "bin" / "python").symlink_to("/bin/true")
    (folder / "venv" / ".installed").touch()
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "VENV": str(folder / "venv")}
    subprocess.run([TOOLS / "setup", "one-more"], env=environment, check=True, capture_output=True)
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(("known", "wanted"), [("*", True), ("no-package", False)])
def test_a_package_of_some_releases_is_installed_where_there_is_one(tmp_path: Path, known: str, wanted: bool) -> None:
    update, install = set_up(tmp_path, lacking="*", known=known)

    assert update == "-q update"
    packages = set(install.split()[4:])
    assert packages == LISTED - (set() if wanted else {STORAGE}) | {"one-more"}


def test_what_is_there_is_not_installed(tmp_path: Path) -> None:
    assert set_up(tmp_path, lacking="no-package", known="*") == []


def test_only_the_package_of_some_releases_is_missing(tmp_path: Path) -> None:
    (install,) = set_up(tmp_path, lacking=STORAGE, known="*")

    assert install.split()[4:] == [STORAGE]
