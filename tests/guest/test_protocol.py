"""The agent's channels under noise, load and garbage: it answers what is right and outlives what is not."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack

import pytest

from conformance.errors import GuestSilent
from tests.guest.vm import Vm

pytestmark = pytest.mark.lab


def test_many_requests_on_one_connection(vm: Vm) -> None:
    with vm.connection() as connection:
        for _ in range(20):
            connection.send(b"clocks\r\nboot\n")
            assert b"monotonic_ns" in connection.next(5)
            assert b"boot_id" in connection.next(5)


def test_a_slow_request_holds_up_nobody(vm: Vm) -> None:
    with vm.connection() as slow, vm.connection() as quick:
        slow.send(b"echo 10.0.2.99 32 3000\n")
        quick.send(b"clocks\n")
        assert b"ok" in quick.next(2)
        with pytest.raises(GuestSilent):
            slow.next(0.2)
        assert json.loads(slow.next(5)) == {"ok": True, "data": {"answered": False}}


def test_more_connections_than_there_is_room_for(vm: Vm) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(vm.connection()) for _ in range(80)]
        crowd[0].send(b"clocks\n")
        assert b"ok" in crowd[0].next(5)
    vm.wait_up()


def test_serial_amid_noise(vm: Vm) -> None:
    vm.serial.send(b"login: \x02\x02HVC\n\x02HVC \n\x02HVC onlyanid\nnoise \x02HVC")
    vm.serial.send(b" not-mine clocks\n")
    vm.guest.print_console("noise,HVC-like")
    for number in range(5):
        vm.guest.print_console(f"between-{number}")
        reply = vm.ask_serial("boot", id=f"id{number}")
        assert reply["data"]["boot_id"] == vm.guest.boot().boot_id
    assert b"between-4" in vm.drain_console(0.5) + vm.console


def test_serial_refuses_like_the_network(vm: Vm) -> None:
    assert vm.ask_serial("nonsense") == {"ok": False, "error": "no such verb: nonsense"}


def test_a_request_beyond_the_limit_is_refused_and_the_next_one_served(vm: Vm) -> None:
    with vm.connection() as connection:
        connection.send(b"x" * 200_000 + b"\nclocks\n")
        assert json.loads(connection.next(5)) == {"ok": False, "error": "a request is at most 65536 bytes"}
        assert b"monotonic_ns" in connection.next(5)


def test_garbage_is_survived(vm: Vm) -> None:
    seed = 20260
    chance = random.Random(seed)
    verbs = ["ram-put", "ram-get", "disk-hash", "disk-write", "writer-read", "echo", "send-frame", "beat-start"]
    verbs += ["foreign-unicast", "ram-verify", "renew", "print", "identity", "boot", "ignore-acpi"]
    odd = ["\x00", "%n%s", "-1", "9" * 20, "\xff\xfe", "a" * 5000, "../../x"]
    before = vm.guest.boot()
    with vm.connection() as connection:
        for round_ in range(300):
            words = [chance.choice([*verbs, *odd]) for _ in range(chance.randrange(1, 12))]
            line = " ".join(words).encode("latin-1").replace(b"\n", b"")
            if chance.random() < 0.3:
                line = chance.randbytes(chance.randrange(1, 400)).replace(b"\n", b"")
            connection.send(line + b"\n")
            reply = json.loads(connection.next(10))
            assert isinstance(reply["ok"], bool), (seed, round_, line)
    after = vm.guest.boot()
    assert after.boot_id == before.boot_id
    assert not [line for line in vm.guest.kernel_problems() if "hvconform" in line or "segfault" in line]


def test_no_descriptor_leaks(vm: Vm) -> None:
    """No request keeps a descriptor: with one each, the agent would have more than it may have in the end."""
    with vm.connection() as connection:
        for verb in (
            "disk-hash data0 0 4096",
            "disk-hash nobody 0 4096",
            "disk-hash data0 0 999999999999",
            "echo 127.0.0.1 1 50",
            "foreign-unicast 00:00:00:00:00:0z 52:54:00:00:00:01",
            "nics",
            "kernel-problems",
        ):
            connection.send(f"{verb}\n".encode() * 70)
            for _ in range(70):
                connection.next(10)
        connection.send(b"disk-hash data0 0 4096\n")
        assert b"sha256" in connection.next(5)
