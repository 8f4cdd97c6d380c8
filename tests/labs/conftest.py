"""One nested libvirt lab for all tests of this folder that need one, in a state folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.lab.inventory import LabInventory
from labs.kvm import KvmLab
from labs.libvirt_hosts.observers import LibvirtObservers

CELL = 1


@pytest.fixture(scope="session")
def state() -> Iterator[Path]:
    """A short path: unix sockets lie beneath it."""
    with tempfile.TemporaryDirectory(prefix="hvc-") as folder:
        yield Path(folder) / "lab"


@pytest.fixture(scope="session")
def lab(state: Path) -> Iterator[LabInventory]:
    try:
        yield KvmLab.up(CELL, state, print)
    finally:
        KvmLab.down(CELL, state, print)


@pytest.fixture
def observers(lab: LabInventory) -> Iterator[LibvirtObservers]:
    found = LibvirtObservers(lab)
    yield found
    found.close()
