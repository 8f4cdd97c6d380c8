"""The peer's agent requests over a real network: right answers, and silence where there is none."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conformance.errors import GuestSilent, ProbeFailed
from conformance.observers.guest import Guest
from conformance.observers.peer.client import Peer, PeerChannel, eui64
from conformance.shells.shell import LocalShell
from conformance.waiting import until
from tests.observers.conftest import GUEST_MAC, Wire

pytestmark = pytest.mark.lab


def said(reply: str) -> str:
    return str(json.loads(reply)["data"]["line"])


def test_an_agent_is_asked_by_its_link_local_address(channel: PeerChannel) -> None:
    assert said(channel.ask("boot", 2)) == "boot"


@pytest.mark.usefixtures("guest")
def test_a_mac_that_nobody_has_is_silent(peer: Peer) -> None:
    with pytest.raises(GuestSilent):
        PeerChannel(peer, "02:68:76:00:00:99").ask("boot", 0.3)


def test_a_port_that_nobody_listens_on_is_silent(peer: Peer) -> None:
    with pytest.raises(GuestSilent, match=r"refused|did not accept"):
        peer.ask_agent(peer.ipv6, "boot", 0.3)


@pytest.mark.usefixtures("guest")
def test_an_agent_is_asked_by_its_lease(wire: Wire, tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.write_text("duid 00:01\n")
    peer = wire.open_peer(leases)
    try:
        channel = PeerChannel(peer, GUEST_MAC, ipv4=True)
        with pytest.raises(GuestSilent, match="no DHCP lease"):
            channel.ask("boot", 2)
        leases.write_text(f"0 {GUEST_MAC} {wire.guest_ipv4} * *\nduid 00:01\n")
        assert said(channel.ask("boot", 2)) == "boot"
    finally:
        peer.close()


def test_a_late_reply_is_never_taken_for_another_requests(channel: PeerChannel) -> None:
    with pytest.raises(GuestSilent):
        channel.ask("late 300 first", 0.1)
    for number in range(5):
        assert said(channel.ask(f"late 100 {number}", 2)) == f"late 100 {number}"


def test_a_slow_request_does_not_hold_up_another(channel: PeerChannel) -> None:
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(channel.ask, "late 500 slow", 5)
        quick = [pool.submit(channel.ask, f"boot {number}", 5) for number in range(4)]
        assert [said(future.result()) for future in quick] == [f"boot {number}" for number in range(4)]
        assert not slow.done()
        assert said(slow.result()) == "late 500 slow"


def test_a_connection_that_the_guest_closed_is_opened_again(channel: PeerChannel) -> None:
    assert said(channel.ask("boot", 2)) == "boot"
    with pytest.raises(GuestSilent, match="closed"):
        channel.ask("hang-up", 2)
    assert said(channel.ask("boot", 2)) == "boot"


@pytest.mark.parametrize("verb", ["two", "endless"])
def test_more_than_a_reply_is_refused(channel: PeerChannel, verb: str) -> None:
    with pytest.raises(ProbeFailed, match=r"more than one|longer than"):
        channel.ask(verb, 2)
    assert said(channel.ask("boot", 2)) == "boot"


def test_garbage_is_refused(channel: PeerChannel) -> None:
    with pytest.raises(ProbeFailed, match="answered"):
        Guest(channel).ask("bytes")


def test_a_process_that_cannot_start_says_why(wire: Wire) -> None:
    peer = Peer("cable", "nosuch0", wire.peer)
    with pytest.raises(ProbeFailed, match="nosuch0: no interface with this name"):
        peer.ping("10.98.76.2")
    with pytest.raises(ProbeFailed, match="no-such-python"):
        Peer("cable", "peer0", wire.peer, python="no-such-python").ping("10.98.76.2")


def test_a_dead_process_fails_its_requests_and_is_started_again(wire: Wire, channel: PeerChannel, peer: Peer) -> None:
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(channel.ask, "late 2000", 5)
        pid = peer._ask("hello")["pid"]
        wire.peer.run(["kill", "-9", str(pid)])
        with pytest.raises(ProbeFailed, match="process ended"):
            slow.result()
    assert said(channel.ask("boot", 2)) == "boot"
    assert peer._ask("hello")["pid"] != pid


def test_the_process_dies_with_a_killed_runner(wire: Wire) -> None:
    script = (
        "import sys; from tests.observers.conftest import *; from conformance.observers.peer.client import Peer\n"
        "peer = Peer('cable', 'peer0', NetnsShell(int(sys.argv[1])), python=sys.executable)\n"
        "print(peer._ask('hello')['pid'], flush=True); sys.stdin.read()"
    )
    runner = LocalShell().popen([sys.executable, "-c", script, str(wire.peer.pid)])
    pid = int(runner.stdout.read(20))
    assert Path(f"/proc/{pid}").exists()
    runner.close()  # kills its process group without a warning; the peer process is in a group of its own
    until("the peer process to end", lambda: not Path(f"/proc/{pid}").exists(), seconds=5)


def test_eui64() -> None:
    assert eui64("52:54:00:12:34:56") == "fe80::5054:ff:fe12:3456"
    with pytest.raises(ValueError):
        eui64("52:54:00:12:34")
