"""A lab is held by one process at a time, and is free again when that process is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conformance.errors import LabError
from conformance.lab.inventory import LabInventory
from conformance.lab.leases import acquire
from labs.simulated.lab import inventory

HOLD = """
import sys
from labs.simulated.lab import inventory
from conformance.lab.leases import acquire
held = acquire([inventory("one")], ["one"], url=sys.argv[1], who="other")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}"


@pytest.fixture
def pool() -> list[LabInventory]:
    return [inventory("one"), inventory("two")]


def test_lease_dies_with_its_process(url: str, pool: list[LabInventory]) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    try:
        with pytest.raises(LabError, match="no lab is free for me: all of one are leased"):
            acquire(pool[:1], ["one"], url=url, who="me", wait_s=0.2)
        elsewhere = acquire(pool, ["one", "two"], url=url, who="me", wait_s=0.2)
        assert elsewhere.lab.name == "two"
        elsewhere.release()
    finally:
        other.kill()
        other.communicate()

    lease = acquire(pool[:1], ["one"], url=url, who="me", wait_s=5)
    assert lease.lab.name == "one"
    lease.release()


def test_wrong_coordinator_is_one_message(pool: list[LabInventory]) -> None:
    with pytest.raises(LabError, match="lease coordinator nonsense://x cannot be used"):
        acquire(pool, ["one", "two"], url="nonsense://x", who="me")
