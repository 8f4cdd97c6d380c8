"""One operation on a VM at a time, and requests to the guest that stand down."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.errors import Busy, HypervisorFailure, InvalidState, Timeout
from conformance.model import PowerState
from drivers.libvirt import base
from drivers.libvirt.binding import lv
from drivers.libvirt.operations import Asked, Locks
from drivers.libvirt.watch import Watch


def test_a_second_operation_is_busy_and_says_with_what() -> None:
    locks = Locks()
    locks.acquire("vm", "migrate")
    with pytest.raises(Busy, match="migrate is under way"):
        locks.acquire("vm", "resize")
    locks.acquire("other", "resize")
    locks.release("vm")
    locks.acquire("vm", "resize")


def test_a_state_that_an_operation_of_ours_passes_through_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt stops a VM for the moment of a snapshot; whoever comes then meets the snapshot, not the state."""
    monkeypatch.setattr(base, "power_of", lambda _: PowerState.TRANSIENT)
    driver: Any = SimpleNamespace(_guard=lambda *_: nullcontext(), _locks=Locks())
    here: Any = SimpleNamespace(vm="vm", host="a", dom=None)
    with pytest.raises(InvalidState):
        base.Base._require(driver, here, (PowerState.RUNNING,), "snapshot")
    driver._locks.acquire("vm", "snapshot")
    with pytest.raises(Busy, match="snapshot is under way"):
        base.Base._require(driver, here, (PowerState.RUNNING,), "snapshot")


def test_force_does_not_override_what_works_on_the_vm() -> None:
    locks = Locks()
    locks.acquire("vm", "migrate")
    with pytest.raises(Busy):
        locks.acquire("vm", "stop", override=True)


def asking(locks: Locks) -> Asked:
    locks.acquire("vm", "reboot")
    stand_down = locks.asking("vm")

    def work() -> None:
        stand_down.wait(30)
        locks.release("vm")
        raise HypervisorFailure("the guest did not power off")

    asked = Asked(work, operation="reboot", vm="vm")
    asked.stand_down = stand_down
    return asked


def test_force_makes_a_request_to_the_guest_stand_down() -> None:
    locks = Locks()
    asked = asking(locks)
    locks.acquire("vm", "stop", override=True)
    with pytest.raises(HypervisorFailure):
        asked.wait(5)


def test_a_request_whose_deadline_passed_stands_down() -> None:
    locks = Locks()
    asked = asking(locks)
    with pytest.raises(Timeout) as caught:
        asked.wait(0.05)
    assert caught.value.phase == "waiting for the guest to power off"
    assert asked.done()
    locks.acquire("vm", "start")  # nothing holds the VM any more


def test_a_request_that_is_met_in_the_last_moment_is_a_success() -> None:
    stand_down = threading.Event()
    ended = threading.Event()

    def work() -> None:
        stand_down.wait(30)
        ended.set()

    asked = Asked(work, operation="stop", vm="vm")
    asked.stand_down = stand_down
    asked.wait(0.05)
    assert ended.is_set()


def test_a_migration_copies_when_data_flows_and_not_when_its_job_begins() -> None:
    """libvirt has the job while the target is still being prepared; what disturbs it then disturbs something else."""
    seen = []
    told: dict[str, int] = {}
    watch = Watch(SimpleNamespace(jobStats=lambda _: told), postcopy=False, stall_seconds=1e9)
    for sent, total in ((0, 0), (0, 64), (16, 64), (64, 64)):
        told.update(type=lv.VIR_DOMAIN_JOB_UNBOUNDED, data_processed=sent, data_total=total)
        watch.look()
        seen.append((watch.progress().phase, watch.progress().fraction))
    assert seen == [("preparing", 0.0), ("preparing", 0.0), ("copying", 0.25), ("copying", 0.99)]
