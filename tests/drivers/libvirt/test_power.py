"""Power: how a guest is asked to go down, and what is done where it goes by itself."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

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
