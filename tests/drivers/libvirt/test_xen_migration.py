"""What the driver does on a Xen host while a VM is sent, and after that has failed; the toolstack is a double."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from conformance.errors import HypervisorFailure
from drivers.libvirt.toolstack import REBOOT, SUSPEND, Domain
from drivers.libvirt.xen_migration import Transfer, Way, mend
from tests.drivers.libvirt.conftest import Time

VM = "57cf7b17-08ae-5427-9b6c-abb33ef6dadc"
SENDER, RECEIVER = 100, 200
POWEROFF = 0


class Tools:
    """A toolstack that shows what it is told, and keeps what it was asked to do."""

    def __init__(self) -> None:
        self.sent: int | None = 0
        self.asking = False
        self.deaf = False
        """Whether the sender does not see that nobody receives."""
        self.source: Domain | None = Domain(7, VM, None, False)
        self.target: Domain | None = Domain(8, VM, None, False)
        self.did: list[object] = []

    def helper(self, host: str, id: int) -> int | None:
        return {("a", 7): SENDER, ("b", 8): RECEIVER}.get((host, id))

    def moved(self, host: str, pid: int) -> int | None:
        assert (host, pid) == ("a", SENDER)
        return self.sent

    def asks(self, host: str, pid: int) -> bool:
        assert (host, pid) == ("a", SENDER)
        return self.asking

    def domain(self, host: str, uuid: str) -> Domain | None:
        assert uuid == VM
        return self.source if host == "a" else self.target

    def kill(self, host: str, pid: int) -> None:
        self.did.append(("kill", host, pid))
        if pid == SENDER or not self.deaf:
            self.sent = None

    def answer(self, host: str, id: int, *, gone: bool) -> None:
        self.did.append(("answer", host, id, gone))

    def resume(self, host: str, id: int) -> None:
        self.did.append(("resume", host, id))


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
def transfer(tools: Any, clock: Time) -> Transfer:  # noqa: ARG001 - time stands still
    return Transfer(tools, Way(VM, "a", "b", 1000), SimpleNamespace(ID=lambda: 7), stall_seconds=15)


def test_progress_is_what_was_sent_of_the_machine(transfer: Transfer, tools: Tools) -> None:
    seen = []
    for tools.sent in (0, 250, 500, 1200):
        transfer.look()
        seen.append((transfer.progress().phase, transfer.progress().fraction))
    assert seen == [("preparing", 0.0), ("copying", 0.25), ("copying", 0.5), ("copying", 0.99)]
    assert tools.did == []


def test_a_transfer_that_stands_still_is_stopped_at_both_ends(transfer: Transfer, tools: Tools, clock: Time) -> None:
    tools.sent, tools.deaf = 100, True
    transfer.look()
    clock.at += 14
    transfer.look()
    assert tools.did == []
    clock.at += 3
    transfer.look()
    assert tools.did == [("kill", "b", RECEIVER), ("kill", "a", SENDER)]
    assert transfer.why.startswith("given up")


def test_a_sender_that_waits_for_libxl_is_never_killed(transfer: Transfer, tools: Tools, clock: Time) -> None:
    tools.sent, tools.deaf, tools.asking = 100, True, True
    transfer.look()
    clock.at += 20
    transfer.look()
    assert tools.did == [("kill", "b", RECEIVER)]


def test_an_abort_ends_the_receiver_and_the_sender_sees_that(transfer: Transfer, tools: Tools) -> None:
    transfer.look()
    transfer.abort()
    assert tools.did == [("kill", "b", RECEIVER)]
    assert transfer.why == "aborted on request"


def test_what_does_not_begin_cannot_be_aborted(transfer: Transfer, tools: Tools) -> None:
    with pytest.raises(HypervisorFailure, match="to be there to abort"):
        transfer.abort()
    assert tools.did == []


@pytest.mark.parametrize(
    ("became", "why"),
    [
        (Domain(7, VM, POWEROFF, False), "shut down"),
        (Domain(7, VM, REBOOT, False), "rebooted"),
        (Domain(7, VM, None, True), "ended"),
        (None, "ended"),
    ],
)
def test_a_guest_that_ends_while_it_is_sent_is_given_up(
    transfer: Transfer, tools: Tools, clock: Time, became: Domain | None, why: str
) -> None:
    transfer.look()
    tools.source = became
    clock.at += 3
    transfer.look()
    assert tools.did == [("kill", "a", SENDER)]
    assert why in transfer.why


@pytest.mark.parametrize("gone", [False, True])
def test_and_answered_for_where_libxl_waits_for_it(transfer: Transfer, tools: Tools, clock: Time, gone: bool) -> None:
    transfer.look()
    tools.source, tools.asking = None if gone else Domain(7, VM, POWEROFF, False), True
    clock.at += 3
    transfer.look()
    assert tools.did == [("answer", "a", 7, gone)]


def test_a_guest_that_suspended_itself_to_be_moved_is_let_alone(transfer: Transfer, tools: Tools, clock: Time) -> None:
    transfer.look()
    tools.source = Domain(7, VM, SUSPEND, False)
    clock.at += 3
    transfer.look()
    assert tools.did == []
    assert transfer.why == ""


# afterwards


class Dom:
    """libvirt's view of the VM; it notices nothing by itself."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def destroy(self) -> None:
        self.did.append("destroy")

    def create(self) -> None:
        self.did.append("create")


def mended(tools: Any, *, active: bool = True) -> list[str]:
    dom = Dom()
    mend(tools, SimpleNamespace(host="a", vm=VM, dom=dom, active=active))  # type: ignore[arg-type]
    return dom.did


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("became", "done"),
    [
        (Domain(7, VM, POWEROFF, False), ["destroy"]),
        (Domain(7, VM, REBOOT, False), ["destroy", "create"]),
        (Domain(7, VM, REBOOT, True), ["destroy"]),
        (None, ["destroy"]),
        (Domain(7, VM, None, False), []),
    ],
)
def test_libvirt_is_told_what_it_has_not_noticed(tools: Tools, became: Domain | None, done: list[str]) -> None:
    tools.source = became
    assert mended(tools) == done
    assert tools.did == []


@pytest.mark.usefixtures("clock")
def test_what_libvirt_has_noticed_itself_is_let_alone(tools: Tools) -> None:
    tools.source = None
    assert mended(tools, active=False) == []


def test_a_guest_that_could_not_be_sent_goes_on(tools: Tools) -> None:
    tools.source = Domain(7, VM, SUSPEND, False)
    assert mended(tools) == []
    assert tools.did == [("resume", "a", 7)]
