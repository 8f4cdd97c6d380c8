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


def require(dom: Any, *allowed: PowerState, locks: Locks | None = None) -> PowerState:
    """What the driver says of a domain's state when an operation needs one of `allowed`."""
    driver: Any = SimpleNamespace(_guard=lambda *_: nullcontext(), _locks=locks or Locks())
    return base.Base._require(driver, base.Located("vm", "a", None, dom), allowed, "start")


def busy() -> Locks:
    locks = Locks()
    locks.acquire("vm", "snapshot")
    return locks


def test_a_state_that_an_operation_of_ours_passes_through_is_busy() -> None:
    """libvirt stops a VM for the moment of a snapshot; whoever comes then meets the snapshot, not the state."""
    passing: Any = SimpleNamespace(state=lambda _: (lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_SNAPSHOT))
    with pytest.raises(InvalidState):
        require(passing, PowerState.RUNNING)
    with pytest.raises(Busy, match="snapshot is under way"):
        require(passing, PowerState.RUNNING, locks=busy())


class Ending:
    """A domain whose guest has ended and whose machine stays for some looks, or for good."""

    def __init__(self, state: str, looks: float) -> None:
        self.number = getattr(lv, f"VIR_DOMAIN_{state}")
        self.looks = looks

    def state(self, _: int) -> tuple[int, int]:
        self.looks -= 1
        return (self.number, 0) if self.looks > 0 else (lv.VIR_DOMAIN_SHUTOFF, 0)

    def isActive(self) -> bool:  # noqa: N802
        return self.looks > 0

    def hasManagedSaveImage(self, _: int) -> bool:  # noqa: N802
        return False


@pytest.mark.parametrize("state", ["SHUTDOWN", "SHUTOFF"])
def test_whoever_needs_a_state_waits_for_a_machine_that_is_being_taken_down(state: str) -> None:
    dom = Ending(state, looks=4)
    assert require(dom, PowerState.STOPPED) is PowerState.STOPPED
    assert not dom.isActive()


def test_nobody_waits_for_a_machine_at_work() -> None:
    dom = Ending("RUNNING", looks=4)
    assert require(dom, PowerState.RUNNING) is PowerState.RUNNING
    assert dom.looks == 3


def test_a_machine_that_never_ends_is_in_no_state_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "END_SECONDS", 0.0)
    with pytest.raises(InvalidState) as refusal:
        require(Ending("SHUTOFF", looks=float("inf")), PowerState.STOPPED)
    assert refusal.value.current == PowerState.TRANSIENT


def test_during_an_operation_of_ours_nobody_waits_for_a_machines_end() -> None:
    dom = Ending("SHUTOFF", looks=8)
    with pytest.raises(Busy):
        require(dom, PowerState.STOPPED, locks=busy())
    assert dom.looks == 6  # at the state, and at whether it is ending


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
