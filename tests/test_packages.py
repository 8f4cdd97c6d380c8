"""The list of system packages that set-up installs holds all that the parts of the project ask for."""

from __future__ import annotations

from pathlib import Path

from conformance.guest.packages import SYSTEM_PACKAGES
from labs.kvm import requirements
from labs.xen import requirements as xen_requirements

LISTED = {
    line
    for line in (Path(__file__).parent.parent / "tools" / "debian-packages.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


def test_the_guest_builder_finds_its_packages() -> None:
    assert not set(SYSTEM_PACKAGES) - LISTED


def test_the_kvm_lab_finds_its_packages() -> None:
    assert not requirements.PACKAGES - LISTED


def test_the_xen_lab_finds_its_packages() -> None:
    assert not xen_requirements.PACKAGES - LISTED
