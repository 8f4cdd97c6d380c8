"""Power: how a guest is asked to go down, and what is done where it goes by itself."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.errors import Busy
from drivers.libvirt.base import Located
from drivers.libvirt.flavour import Flavour
from drivers.libvirt.kvm import KVM
from drivers.libvirt.power import Power
from drivers.libvirt.xen import FLAVOURS

libvirt = pytest.importorskip("libvirt", reason="libvirt-python is not installed")


def here(dom: object) -> Located:
    return Located("vm", "a", None, dom)


class GoingDown:
    """A domain whose guest takes a few looks to power off, and fails whoever asks it once more."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.asked = 0

    def state(self, _: int) -> tuple[int, int]:
        self.looks -= self.asked > 0
        return (1, 1) if self.looks > 0 else (5, 1)  # running, shut off by a shutdown

    def isActive(self) -> bool:  # noqa: N802
        return self.looks > 0

    def shutdownFlags(self, _: int) -> None:  # noqa: N802
        self.asked += 1


@pytest.mark.parametrize(("flavour", "asked"), [(KVM, 5), (FLAVOURS["pv"], 1)])
def test_a_guest_that_has_heard_it_is_asked_once(monkeypatch: pytest.MonkeyPatch, flavour: Flavour, asked: int) -> None:
    monkeypatch.setattr("drivers.libvirt.power.ASK_AGAIN_SECONDS", 0)
    dom, driver = GoingDown(looks=5), SimpleNamespace(_flavour=flavour)
    Power._await_off(driver, "stop", here(dom), 0, threading.Event())  # type: ignore[arg-type]
    assert dom.asked == asked


class Off:
    """A domain that has powered off by the time that it is destroyed; with `stays` it has not, after all."""

    def __init__(self, code: str, *, stays: bool) -> None:
        self.code = getattr(libvirt, code)
        self.stays = stays
        self.looks = 0

    def isActive(self) -> bool:  # noqa: N802
        self.looks += 1
        return self.looks == 1 or self.stays

    def destroy(self) -> None:
        error = libvirt.libvirtError("refused")
        error.err = (self.code, 0, "refused", 2, None, None, None, 0, 0)
        raise error


def test_a_machine_that_goes_off_by_itself_needs_no_cutting() -> None:
    here(Off("VIR_ERR_OPERATION_INVALID", stays=False)).cut()


@pytest.mark.parametrize(
    "dom", [Off("VIR_ERR_OPERATION_INVALID", stays=True), Off("VIR_ERR_INTERNAL_ERROR", stays=False)]
)
def test_a_machine_that_cannot_be_cut_off_is_an_error(dom: Any) -> None:
    with pytest.raises(libvirt.libvirtError):
        here(dom).cut()


class Ending:
    """A domain whose guest has ended and whose machine stays for some looks, or for good."""

    def __init__(self, state: str, looks: float) -> None:
        self.number = getattr(libvirt, f"VIR_DOMAIN_{state}")
        self.looks = looks

    def state(self, _: int) -> tuple[int, int]:
        self.looks -= 1
        return (self.number, 0) if self.looks > 0 else (libvirt.VIR_DOMAIN_SHUTOFF, 0)

    def isActive(self) -> bool:  # noqa: N802
        return self.looks > 0


def ending(checked: list[str], *, busy: bool = False) -> Any:
    """As much of a driver as waits for a machine's end; `busy`: one of its own operations is under way."""

    def check(vm: str, operation: str) -> None:
        checked.append(operation)
        if busy:
            raise Busy(vm=vm, operation=operation)

    return SimpleNamespace(_guard=lambda *_: nullcontext(), _locks=SimpleNamespace(check=check))


@pytest.mark.parametrize("state", ["SHUTDOWN", "SHUTOFF"])
def test_a_start_waits_for_a_machine_that_is_being_taken_down(state: str) -> None:
    dom, checked = Ending(state, looks=4), list[str]()
    Power._await_end(ending(checked), here(dom))
    assert (dom.isActive(), checked) == (False, ["start"])


def test_a_start_does_not_wait_for_a_machine_at_work() -> None:
    dom, checked = Ending("RUNNING", looks=4), list[str]()
    Power._await_end(ending(checked), here(dom))
    assert (dom.looks, checked) == (3, [])


def test_a_start_leaves_a_machine_that_never_ends_to_whoever_judges_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.libvirt.power.END_SECONDS", 0.0)
    Power._await_end(ending([]), here(Ending("SHUTOFF", looks=float("inf"))))


def test_a_start_during_an_operation_of_ours_is_refused_at_once() -> None:
    dom = Ending("SHUTOFF", looks=4)
    with pytest.raises(Busy):
        Power._await_end(ending([], busy=True), here(dom))
    assert dom.looks == 3
