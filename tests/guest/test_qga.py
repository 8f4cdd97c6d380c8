"""The QEMU guest agent's protocol, as a driver's tools speak it."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from conformance.errors import ProbeFailed
from conformance.waiting import holds_for, until
from tests.guest.vm import MAC, Line, Vm

pytestmark = pytest.mark.lab


@pytest.fixture
def agent(qga: socket.socket) -> Line:
    return Line(qga)


def ask(agent: Line, command: str, **arguments: Any) -> Any:
    agent.send(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    return json.loads(agent.next(5))


def test_sync_after_garbage(agent: Line) -> None:
    agent.send(b'{"execute": "guest-pi\xff{"execute": "guest-sync-delimited", "arguments": {"id": 4711}}\n')
    assert agent.next(5) == b'\xff{"return": 4711}'.replace(b" ", b"")
    assert ask(agent, "guest-sync", id=12) == {"return": 12}
    assert ask(agent, "guest-ping") == {"return": {}}


def test_info_and_os(agent: Line) -> None:
    info = ask(agent, "guest-info")["return"]
    assert {"guest-ping", "guest-shutdown", "guest-fsfreeze-freeze"} <= {
        item["name"] for item in info["supported_commands"]
    }
    assert ask(agent, "guest-get-osinfo")["return"]["id"] == "hvconform"


def test_interfaces(agent: Line) -> None:
    nics = ask(agent, "guest-network-get-interfaces")["return"]
    nic = next(nic for nic in nics if nic.get("hardware-address") == MAC)
    assert {"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24} in nic["ip-addresses"]


def test_freeze_holds_the_writer(vm: Vm, agent: Line) -> None:
    vm.guest.start_writer("data0", 4 << 20, 8, 5)
    assert ask(agent, "guest-fsfreeze-status") == {"return": "thawed"}
    assert ask(agent, "guest-fsfreeze-freeze") == {"return": 1}
    assert ask(agent, "guest-fsfreeze-status") == {"return": "frozen"}
    held = vm.guest.writer().acknowledged
    holds_for("the writer is held", lambda: vm.guest.writer().acknowledged == held, seconds=0.3)
    with pytest.raises(ProbeFailed, match="frozen"):
        vm.guest.write_pattern("data0", 0, 4096, 1)
    assert ask(agent, "guest-fsfreeze-thaw") == {"return": 1}
    until("the writer to go on", vm.guest.writer, lambda status: status.acknowledged > held, seconds=5)
    vm.guest.stop_writer()


def test_time(vm: Vm, agent: Line) -> None:
    there = 1_600_000_000 * 10**9
    before = vm.guest.clocks()
    assert ask(agent, "guest-set-time", time=there) == {"return": {}}
    after = vm.guest.clocks()
    assert there <= after.realtime_ns < there + 10**11
    assert after.monotonic_ns > before.monotonic_ns
    assert ask(agent, "guest-set-time", time=time.time_ns()) == {"return": {}}
    assert abs(ask(agent, "guest-get-time")["return"] - time.time_ns()) < 10**10


@pytest.mark.parametrize(
    "line", [b"{", b"nonsense", b"[]", b'{"execute": 1}', b'{"execute": "guest-exec"}', b"[" * 5000]
)
def test_what_is_not_understood_is_an_error(agent: Line, line: bytes) -> None:
    agent.send(line + b"\n")
    assert "class" in json.loads(agent.next(5))["error"]
    assert ask(agent, "guest-ping") == {"return": {}}
