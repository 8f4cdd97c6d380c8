"""The guest client against the agent's protocol: what it sends, what it makes of the replies, what it will not take."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from conformance.errors import GuestSilent, ProbeFailed
from conformance.observers.guest import (
    Boot,
    Clocks,
    Cpus,
    Guest,
    GuestDisk,
    GuestNic,
    Identity,
    Memory,
    Resolver,
    WriterStatus,
)
from conformance.waiting import WaitTimeout

BOOT = {"boot_id": "b1", "boots": 3, "clean": True, "uptime_ms": 1200}
DISK = {"name": "vda", "serial": "root", "size_bytes": 4096, "readonly": False, "address": "0000:00:04.0"}
NIC = {"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "carrier": True, "queues": 1, "address": "0000:00:05.0"}


class Agent:
    """A channel that gives prepared replies and remembers what it was asked."""

    def __init__(self, *replies: object) -> None:
        self.replies = list(replies)
        self.asked: list[str] = []
        self.patience: list[float] = []

    def ask(self, line: str, timeout_s: float) -> str:
        self.asked.append(line)
        self.patience.append(timeout_s)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, str) else json.dumps({"ok": True, "data": reply})


Ask = Callable[[Guest], Any]

REQUESTS: list[tuple[Ask, str, dict[str, Any], Any]] = [
    (Guest.boot, "boot", BOOT, Boot("b1", 3, True, 1200)),
    (
        Guest.identity,
        "identity",
        {"smbios_uuid": "u", "image_id": "i", "firmware": "bios", "agent_version": "1"},
        Identity("u", "i", "bios", "1"),
    ),
    (Guest.cpus, "cpus", {"online": 2, "flags_sha256": "f", "model": "m"}, Cpus(2, "f", "m")),
    (Guest.memory, "memory", {"total_kib": 9, "available_kib": 8}, Memory(9, 8)),
    (Guest.disks, "disks", {"disks": [DISK]}, [GuestDisk("vda", "root", 4096, False, "0000:00:04.0")]),
    (lambda guest: guest.disk("root") is not None, "disks", {"disks": [DISK]}, True),
    (lambda guest: guest.disk("other"), "disks", {"disks": [DISK]}, None),
    (
        Guest.nics,
        "nics",
        {"nics": [{**NIC, "addresses": ["10.0.0.2/24"]}]},
        [GuestNic("eth0", "02:00:00:00:00:01", 1500, True, ("10.0.0.2/24",), 1, "0000:00:05.0")],
    ),
    (
        Guest.resolver,
        "resolver",
        {"gateway4": "10.0.0.1", "gateway6": "", "dns": ["10.0.0.1"]},
        Resolver("10.0.0.1", "", ("10.0.0.1",)),
    ),
    (Guest.clocks, "clocks", {"monotonic_ns": 1, "realtime_ns": 2, "boottime_ns": 3}, Clocks(1, 2, 3)),
    (Guest.kernel_problems, "kernel-problems", {"lines": ["BUG: x"]}, ["BUG: x"]),
    (lambda guest: guest.write_pattern("data0", 4096, 8192, 7), "disk-write data0 4096 8192 7", {"sha256": "s"}, "s"),
    (lambda guest: guest.hash_disk("data0", 0, 4096), "disk-hash data0 0 4096", {"sha256": "s"}, "s"),
    (lambda guest: guest.start_writer("data0", 0, 16, 10), "writer-start data0 0 16 10", {}, None),
    (
        Guest.writer,
        "writer-status",
        {"running": True, "acknowledged": 5, "errors": 1, "longest_stall_ms": 40},
        WriterStatus(True, 5, 1, 40),
    ),
    (lambda guest: guest.newest_written("data0", 0, 16), "writer-read data0 0 16", {"newest": 12}, 12),
    (lambda guest: guest.put_ram("k", "v-1"), "ram-put k v-1", {}, None),
    (lambda guest: guest.get_ram("k"), "ram-get k", {"value": "v-1"}, "v-1"),
    (lambda guest: guest.get_ram("k"), "ram-get k", {"value": None}, None),
    (lambda guest: guest.fill_ram(16, 7), "ram-fill 16 7", {}, None),
    (lambda guest: guest.ram_intact(7), "ram-verify 7", {"intact": False}, False),
    (lambda guest: guest.dirty_ram(0), "ram-dirty 0", {}, None),
    (Guest.reboot, "reboot", {}, None),
    (Guest.power_off, "poweroff", {}, None),
    (Guest.panic, "panic", {}, None),
    (Guest.hang, "hang", {}, None),
    (Guest.ignore_power_button, "ignore-acpi 1", {}, None),
    (lambda guest: guest.ignore_power_button(False), "ignore-acpi 0", {}, None),
    (lambda guest: guest.start_heartbeat("10.0.0.1", 7780, 10), "beat-start 10.0.0.1 7780 10", {}, None),
    (Guest.stop_heartbeat, "beat-stop", {}, None),
    (lambda guest: guest.echo("10.0.0.3", 1472), "echo 10.0.0.3 1472 1000", {"answered": True}, True),
    (lambda guest: guest.send_frame("02:00:00:00:00:01", b"\xff\x00"), "send-frame 02:00:00:00:00:01 ff00", {}, None),
    (lambda guest: guest.count_foreign_unicast("m", "o"), "foreign-unicast m o", {"count": 4}, 4),
    (lambda guest: guest.renew_lease("m"), "renew m", {}, None),
    (lambda guest: guest.print_console("token"), "print token", {}, None),
]


@pytest.mark.parametrize(("ask", "line", "data", "value"), REQUESTS, ids=[line for _, line, _, _ in REQUESTS])
def test_each_request_is_the_protocols(ask: Ask, line: str, data: dict[str, Any], value: object) -> None:
    agent = Agent(data)
    assert ask(Guest(agent)) == value
    assert agent.asked == [line]


@pytest.mark.parametrize(
    ("ask", "data"), [(ask, data) for ask, _, data, _ in REQUESTS], ids=[line for _, line, _, _ in REQUESTS]
)
def test_each_answer_that_lacks_something_is_refused(ask: Ask, data: dict[str, Any]) -> None:
    for missing in data:
        with pytest.raises(ProbeFailed, match="the guest agent answered"):
            ask(Guest(Agent({key: data[key] for key in data if key != missing})))


@pytest.mark.parametrize(
    "reply",
    ["", "null", "[]", "7", '"ok"', "{}", '{"ok":true,"data":[]}', '{"ok":true,"data":null}', "[" * 60_000, "\x00{"],
)
def test_nonsense_is_refused(reply: str) -> None:
    with pytest.raises(ProbeFailed, match="the guest agent answered") as refusal:
        Guest(Agent(reply)).boot()
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("boots", ["many", None, [], {}, 1e400])
def test_a_number_that_is_none_is_refused(boots: object) -> None:
    with pytest.raises(ProbeFailed, match="the guest agent answered"):
        Guest(Agent({**BOOT, "boots": boots})).boot()


def test_only_true_is_a_yes() -> None:
    with pytest.raises(ProbeFailed, match="refused 'boot': no reason given"):
        Guest(Agent('{"ok":"false","data":{}}')).boot()


def test_a_refusal_says_why_and_not_too_much() -> None:
    with pytest.raises(ProbeFailed, match="no such disk") as refusal:
        Guest(Agent(json.dumps({"ok": False, "error": "no such disk " + "x" * 60_000}))).hash_disk("d", 0, 4096)
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("token", ["two words", "two\nlines", "", "grüße", "a\x02b"])
def test_what_would_break_the_line_is_not_sent(token: str) -> None:
    agent = Agent({})
    with pytest.raises(ValueError, match="ASCII words"):
        Guest(agent).print_console(token)
    assert agent.asked == []


def test_deadlines() -> None:
    agent = Agent({"sha256": "s", "answered": True})
    guest = Guest(agent, timeout_s=2, boot_s=40)
    guest.ask("memory")
    guest.hash_disk("d", 0, 4096)
    guest.echo("10.0.0.3", timeout_ms=3000)
    assert agent.patience == [2, 40, 5]


def test_silence() -> None:
    assert Guest(Agent(BOOT)).answers()
    assert not Guest(Agent(GuestSilent("no answer"))).answers()
    Guest(Agent(GuestSilent("as it should be"))).panic()
    Guest(Agent(GuestSilent("as it should be"))).hang()
    with pytest.raises(GuestSilent):
        Guest(Agent(GuestSilent("no answer"))).memory()
    with pytest.raises(ProbeFailed):  # it is alive, and it is not its silence that is wrong
        Guest(Agent("nonsense")).answers()


def test_waiting_for_the_agent() -> None:
    agent = Agent(GuestSilent("not yet"), GuestSilent("not yet"), BOOT)
    assert Guest(agent).wait_up(seconds=5).boots == 3
    assert len(agent.asked) == 3
    with pytest.raises(WaitTimeout, match="the guest agent to answer"):
        Guest(Agent(GuestSilent("never"))).wait_up(seconds=0.1)


def test_waiting_for_another_boot() -> None:
    before = Boot("b1", 3, True, 1200)
    after = {**BOOT, "boot_id": "b2", "boots": 4}
    agent = Agent(BOOT, GuestSilent("rebooting"), after)
    assert Guest(agent).wait_new_boot(before, seconds=5).boots == 4
    with pytest.raises(WaitTimeout, match="a boot other than b1"):
        Guest(Agent(BOOT)).wait_new_boot(before, seconds=0.1)


def test_stopping_the_writer_reads_its_status_after_the_stop() -> None:
    agent = Agent({}, {"running": False, "acknowledged": 5, "errors": 0, "longest_stall_ms": 4})
    assert Guest(agent).stop_writer().acknowledged == 5
    assert agent.asked == ["writer-stop", "writer-status"]
