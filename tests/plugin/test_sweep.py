"""A sweep removes what is in a dead process's ledger, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance import paths
from conformance.driver import Driver
from conformance.errors import HypervisorFailure
from conformance.lab import labs, sweep
from conformance.lab.inventory import LabInventory
from conformance.lab.ledger import Ledger, unsettled
from conformance.model import VmSpec
from labs.simulated.lab import SimulatedLab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabInventory]:
    monkeypatch.setenv("HVCONFORM_STATE", str(tmp_path))
    yield SimulatedLab.up(8, tmp_path, lambda _: None)
    SimulatedLab.down(8, tmp_path, lambda _: None)


@pytest.fixture
def driver(lab: LabInventory) -> Driver:
    return labs.connect(lab, lab.targets[0])


def ledger(lab: LabInventory) -> Ledger:
    return Ledger(paths.state_dir() / "ledgers" / lab.name / "run-gw0-simulated.jsonl", lab.targets[0].slug)


def vm(driver: Driver, lab: LabInventory, name: str) -> str:
    return driver.create(VmSpec(name, lab.images[0].name, host=lab.hosts[0].name)).wait()


def die(held: Ledger) -> None:
    held._file.close()  # what the end of a process does


def test_sweep_reclaims_what_was_promised_and_touches_nothing_else(lab: LabInventory, driver: Driver) -> None:
    mine = ledger(lab)
    mine.promise("hvc-1")
    vm(driver, lab, "hvc-1")
    foreign = vm(driver, lab, "hvc-10")
    mine.promise("hvc-never-made")
    die(mine)

    done = sweep.sweep(lab, lambda _: None)

    assert done.reclaimed == ["hvc-1", "hvc-never-made"]
    assert not done.problems
    assert list(driver.list()) == [foreign]
    assert not sweep.ledgers(lab.name)


def test_ledger_of_a_living_process_is_left_alone(lab: LabInventory, driver: Driver) -> None:
    mine = ledger(lab)
    mine.promise("hvc-1")
    alive = vm(driver, lab, "hvc-1")

    done = sweep.sweep(lab, lambda _: None)

    assert done.living == [mine.path]
    assert list(driver.list()) == [alive]
    mine.settle("hvc-1")
    mine.close()


def test_what_stays_is_said_and_stays_in_the_ledger(
    lab: LabInventory, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ledger(lab)
    mine.promise("hvc-1")
    vm(driver, lab, "hvc-1")
    die(mine)
    monkeypatch.setattr(type(driver), "reclaim", lambda *_: None)

    done = sweep.sweep(lab, lambda _: None)

    assert "hvc-1: still there: " in done.problems[0]
    assert [promise.name for promise in unsettled(mine.path)] == ["hvc-1"]


def test_driver_that_fails_is_said(lab: LabInventory, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ledger(lab)
    mine.promise("hvc-1")
    die(mine)

    def fails(*_: object) -> None:
        raise HypervisorFailure("the disk is on fire")

    monkeypatch.setattr(type(driver), "reclaim", fails)

    assert "the disk is on fire" in sweep.sweep(lab, lambda _: None).problems[0]


def test_lab_that_is_down_is_forgotten(lab: LabInventory) -> None:
    mine = ledger(lab)
    mine.promise("hvc-1")
    die(mine)

    assert not sweep.forget(lab.name).living
    assert not sweep.ledgers(lab.name)
