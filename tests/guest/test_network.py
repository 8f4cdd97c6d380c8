"""What the agent sends, answers and counts, seen from the other end of a NIC."""

from __future__ import annotations

import re
import select
import socket
import struct
import time
import zlib
from functools import partial

import pytest

from conformance.errors import GuestSilent
from conformance.waiting import until
from tests.guest.vm import MAC, UUID, WIRE_MAC, Vm

pytestmark = pytest.mark.lab

MINE = bytes.fromhex("525400000099")
THEIRS = bytes.fromhex(WIRE_MAC.replace(":", ""))


def _frames(wire: socket.socket, wanted: bytes) -> bytes:
    """The next frame with these bytes in it."""
    while True:
        frame = wire.recv(10000)
        if wanted in frame:
            return frame


def test_a_frame_leaves_as_it_was_given(vm: Vm, wire: socket.socket) -> None:
    forged = MINE + bytes.fromhex("02deadbeef01") + b"\x88\xb5" + b"forged frame".ljust(50, b".")
    vm.guest.send_frame(WIRE_MAC, forged)
    assert _frames(wire, b"forged frame")[: len(forged)] == forged


def test_foreign_unicast_counts_only_what_is_foreign(vm: Vm, wire: socket.socket) -> None:
    guest = str(wire.getsockname()).replace("peer", "guest")
    count = partial(vm.guest.count_foreign_unicast, WIRE_MAC, "02:00:00:00:00:aa")
    assert count() == 0
    foreign, somebody = bytes.fromhex("0200000000aa"), bytes.fromhex("0200000000ab")
    for destination in (THEIRS, b"\xff" * 6, bytes.fromhex("333300000001"), somebody, foreign, foreign):
        wire.sendto(destination + MINE + b"\x88\xb5" + bytes(50), guest)
    until("two foreign frames", count, lambda frames: frames >= 2, seconds=5)
    assert count() == 2


@pytest.mark.usefixtures("vm")
def test_dhcp_is_asked_with_a_host_name(wire: socket.socket) -> None:
    request = _frames(wire, b"\x63\x82\x53\x63")  # DHCP's magic cookie; nobody answers there, so it is asked again
    assert request[6:12] == THEIRS
    assert b"hvc-48564300" in request


def test_heartbeats_carry_identity_sequence_and_clocks(vm: Vm) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        vm.guest.start_heartbeat("10.0.2.2", peer.getsockname()[1], 10)
        beats = [peer.recv(1000).decode().split() for _ in range(5)]
        vm.guest.stop_heartbeat()
        assert [beat[:3] for beat in beats] == [["HVB1", UUID, vm.guest.boot().boot_id]] * 5
        first = int(beats[0][3])
        assert [int(beat[3]) for beat in beats] == list(range(first, first + 5))
        assert int(beats[0][4]) < int(beats[4][4]) <= vm.guest.clocks().monotonic_ns
        assert abs(int(beats[4][5]) / 1e9 - time.time()) < 60
        until(
            "the heartbeats to end", lambda: not select.select([peer], [], [], 0.3)[0] or not peer.recv(1000), seconds=5
        )
        vm.guest.start_heartbeat("10.0.2.2", peer.getsockname()[1], 10)
        peer.settimeout(5)
        assert int(peer.recv(1000).split()[3]) > int(beats[4][3]), "the sequence goes on"
        vm.guest.stop_heartbeat()


def test_echo(vm: Vm) -> None:
    assert vm.guest.echo("127.0.0.1", 1000)
    assert vm.guest.echo("::1", 1000)
    assert vm.guest.echo("fe80::5054:ff:fe00:2%eth1", 32)
    assert not vm.guest.echo("10.0.2.99", 32, timeout_ms=200)
    assert not vm.guest.echo("10.0.2.99", 5000, timeout_ms=60_000), "more than the MTU with don't-fragment: at once"


def test_the_lease_is_asked_for_again(vm: Vm) -> None:
    vm.guest.renew_lease(MAC)

    def leased() -> bool:
        nic = vm.guest.nic(MAC)
        return nic is not None and "10.0.2.15/24" in nic.addresses

    until("the lease to be back", leased, seconds=10, ignore=(GuestSilent,))
    assert vm.guest.resolver().gateway4 == "10.0.2.2"


def _record(sequence: int, damage: int = 0) -> bytes:
    body = struct.pack("<4sIQQ36s", b"HVS1", 0, sequence, time.monotonic_ns(), b"")
    return body + struct.pack("<I", zlib.crc32(body) ^ damage)


def test_the_stream_runs_both_ways(vm: Vm) -> None:
    boot_id = vm.guest.boot().boot_id
    with vm.connection(port=7779) as stream:
        stream.send(b"10\n")
        received = b""
        for sequence in range(5):
            stream.send(_record(sequence))
            while len(received) < 64 * (sequence + 1):
                received += stream.stream.recv(4096)
    for sequence in range(5):
        record = received[64 * sequence :][:64]
        magic, reserved, number, _, boot, crc = struct.unpack("<4sIQQ36sI", record)
        assert (magic, reserved, number, boot.decode()) == (b"HVS1", 0, sequence, boot_id)
        assert crc == zlib.crc32(record[:60])


@pytest.mark.parametrize("records", [[_record(0, damage=1)], [_record(0), _record(2)], [bytes(64)]])
def test_a_corrupt_record_ends_the_stream(vm: Vm, records: list[bytes]) -> None:
    with vm.connection(port=7779) as stream:
        stream.send(b"1000\n" + b"".join(records))
        stream.stream.settimeout(5)
        received = b""
        while got := stream.stream.recv(4096):
            received += got
        assert len(received) <= 128


def test_a_heartbeat_is_one_line(vm: Vm) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(5)
        vm.guest.start_heartbeat("10.0.2.2", peer.getsockname()[1], 20)
        beat = peer.recv(1000).decode()
        vm.guest.stop_heartbeat()
    assert re.fullmatch(r"HVB1 \S{36} \S{36} \d+ \d+ \d+", beat)
