"""The ledger: what was promised and not settled is what a killed run may have left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.lab.ledger import Ledger, Promise, unsettled


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "lab" / "run.jsonl", "kvm")
    yield made
    made.close()


def test_a_promise_is_on_disk_before_anything_is_made(ledger: Ledger) -> None:
    ledger.promise("vm-1")
    ledger.promise("vm-2")
    ledger.settle("vm-1")
    assert unsettled(ledger.path) == [Promise("vm-2", "kvm")]


def test_a_ledger_with_nothing_open_goes_away_and_another_stays(tmp_path: Path) -> None:
    done, killed = Ledger(tmp_path / "done.jsonl", "kvm"), Ledger(tmp_path / "killed.jsonl", "kvm")
    for ledger in (done, killed):
        ledger.promise("vm-1")
    done.settle("vm-1")
    done.close()
    killed.close()
    assert not done.path.exists()
    assert killed.path.exists()


def test_a_torn_last_line_is_a_promise_not_made(ledger: Ledger) -> None:
    ledger.promise("vm-1")
    with ledger.path.open("a") as file:
        file.write('{"promise": "vm-')
    assert [promise.name for promise in unsettled(ledger.path)] == ["vm-1"]


def test_macs_are_locally_known_and_differ(ledger: Ledger) -> None:
    macs = {ledger.new_mac() for _ in range(100)}
    assert len(macs) == 100
    assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in macs)
