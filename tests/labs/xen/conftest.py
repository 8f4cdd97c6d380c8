"""One nested Xen lab for the tests of this folder, which take minutes: collected where HVCONFORM_TEST_XEN is set."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.lab.inventory import LabInventory
from labs.xen import XenLab
from labs.xen_hosts.observers import XenObservers

CELL = 1

collect_ignore = [] if os.environ.get("HVCONFORM_TEST_XEN") else ["test_xen_lab.py", "test_xen_probe.py"]


@pytest.fixture(scope="session")
def state() -> Iterator[Path]:
    """A short path: unix sockets lie beneath it."""
    with tempfile.TemporaryDirectory(prefix="hvc-") as folder:
        yield Path(folder) / "lab"


@pytest.fixture(scope="session")
def lab(state: Path) -> Iterator[LabInventory]:
    try:
        yield XenLab.up(CELL, state, print)
    finally:
        XenLab.down(CELL, state, print)


@pytest.fixture
def observers(lab: LabInventory) -> Iterator[XenObservers]:
    found = XenObservers(lab)
    yield found
    found.close()
