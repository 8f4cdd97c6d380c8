"""A nested lab for the driver, and the driver on it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.waiting import use_clock
from drivers.libvirt import LibvirtDriver
from labs.kvm import KvmLab

CELL = 15


class Time:
    """A clock that stands still but for what it is told."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock() -> Iterator[Time]:
    clock = Time()
    use_clock(clock)
    yield clock
    use_clock(None)


@pytest.fixture(scope="session")
def lab() -> Iterator[LabInventory]:
    """One cell for all tests of this folder; skipped for what this machine lacks."""
    if lacking := KvmLab.missing():
        pytest.skip("lacks " + ", ".join(what for what, _ in lacking))
    with tempfile.TemporaryDirectory(prefix="hvc-") as folder:
        state = Path(folder) / "lab"
        try:
            yield KvmLab.up(CELL, state, print)
        finally:
            KvmLab.down(CELL, state, print)


@pytest.fixture(scope="session")
def observers(lab: LabInventory) -> Iterator[Observers]:
    found = KvmLab.observe(lab)
    yield found
    found.close()


@pytest.fixture
def driver(lab: LabInventory) -> Iterator[LibvirtDriver]:
    made = LibvirtDriver.connect(lab, lab.target("kvm-libvirt"))
    assert isinstance(made, LibvirtDriver)
    yield made
    for vm in made.list():
        made.delete(vm).wait()
    for volume in made.volumes():
        made.delete_volume(volume.id).wait()
    made.close()
