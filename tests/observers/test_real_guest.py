"""The observers and the real test guest together, in QEMU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from conformance.errors import GuestSilent
from conformance.observers.peer.client import PeerChannel
from conformance.waiting import holds_for, until
from tests.observers.real_guest import MAC, UUID, RealGuest, real_guest

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGuest]:
    with real_guest(tmp_path_factory.mktemp("real")) as real:
        yield real


def address(real: RealGuest) -> str:
    return until("a lease", lambda: real.peer.lease(MAC) or "", seconds=10)


def pause(real: RealGuest, seconds: float) -> None:
    os.kill(real.qemu_pid, signal.SIGSTOP)
    try:
        assert not real.guest.answers(0.1)
        holds_for("the pause", lambda: True, seconds=seconds)
    finally:
        os.kill(real.qemu_pid, signal.SIGCONT)


def test_the_network_and_the_console_show_the_same_guest(real: RealGuest) -> None:
    assert real.guest.identity().smbios_uuid == UUID
    assert real.serial.identity() == real.guest.identity()
    assert real.serial.boot().boot_id == real.guest.boot().boot_id
    leased = f"{address(real)}/24"
    # the agent answers before the lease is taken: over the link-local address, which the guest has by itself
    until("the guest to take its lease", lambda: leased in getattr(real.guest.nic(MAC), "addresses", ()), seconds=10)


def test_the_guest_over_ipv4(real: RealGuest) -> None:
    address(real)
    assert "boot_id" in PeerChannel(real.peer, MAC, ipv4=True).ask("boot", 5)


def test_ping_and_echo_at_the_mtu(real: RealGuest) -> None:
    assert real.peer.ping(address(real), payload_bytes=1472, dont_fragment=True)
    assert not real.peer.ping(address(real), payload_bytes=1473, dont_fragment=True)
    assert real.guest.echo(real.peer.ipv4, 1472)
    assert not real.guest.echo(real.peer.ipv4, 1473)


def test_a_stream_both_ways(real: RealGuest) -> None:
    with real.peer.tcp_stream(address(real)) as stream:
        until("100 records", lambda: stream.report().received >= 100, seconds=20)
    report = stream.report()
    assert (report.lost, report.duplicates, report.corrupted, report.reset) == (0, 0, 0, False)


def test_a_paused_guest_is_a_gap_and_not_a_loss(real: RealGuest) -> None:
    with real.peer.tcp_stream(address(real)) as stream:
        until("a record", lambda: stream.report().received, seconds=10)
        pause(real, 0.4)
        before = stream.report().received
        until("more records", lambda: stream.report().received > before + 10, seconds=20)
    report = stream.report()
    assert report.longest_gap_ms >= 499
    assert (report.lost, report.reset, report.restarts) == (0, False, 0)


def test_heartbeats_of_a_paused_guest(real: RealGuest) -> None:
    with real.peer.heartbeats(UUID) as beats, real.peer.heartbeats("0" * 36) as nobody:
        real.guest.start_heartbeat(real.peer.ipv4, real.peer.heartbeat_port, 10)
        until("20 beats", lambda: beats.report().received >= 20, seconds=10)
        pause(real, 0.4)
        before = beats.report().received
        until("20 more", lambda: beats.report().received >= before + 20, seconds=10)
        real.guest.stop_heartbeat()
    report = beats.report()
    assert report.longest_gap_ms >= 499
    assert (report.lost, report.duplicates, report.restarts, report.monotonic_backwards) == (0, 0, 0, 0)
    assert nobody.report().received == 0


def test_a_frame_that_the_guest_forges_is_seen(real: RealGuest) -> None:
    forged = bytes.fromhex("ffffffffffff" + "02face000001" + "88b5") + b"forged".ljust(46)
    with real.peer.sniff(source="02:fa:ce:00:00:01") as sniffer:
        real.guest.send_frame(MAC, forged)
        frames = until("the frame", sniffer.frames, seconds=5)
    assert [frame.payload for frame in frames] == [forged[14:]]


def test_a_reboot_ends_streams_and_starts_heartbeats_anew(real: RealGuest) -> None:
    before = real.guest.boot()
    with real.peer.tcp_stream(address(real)) as stream, real.peer.heartbeats(UUID) as beats:
        real.guest.start_heartbeat(real.peer.ipv4, real.peer.heartbeat_port, 10)
        until("beats", lambda: beats.report().received >= 5, seconds=10)
        real.guest.reboot()
        after = real.guest.wait_new_boot(before, seconds=90)
        real.guest.start_heartbeat(real.peer.ipv4, real.peer.heartbeat_port, 10)
        until("the restart to be seen", lambda: beats.report().restarts, seconds=20)
        until("the stream to have ended", lambda: stream.report().reset, seconds=60)
    assert after.boots == before.boots + 1
    assert beats.report().restarts == 1


def test_a_guest_that_hangs_is_silent_everywhere(real: RealGuest) -> None:
    real.guest.hang()
    for probe in (real.guest, real.serial):
        with pytest.raises(GuestSilent):
            probe.ask("boot", timeout_s=0.5)
