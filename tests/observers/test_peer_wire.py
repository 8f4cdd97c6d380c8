"""The peer's measurements over a real network; each is shown a fault that it must see, and the lack of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from conformance.errors import GuestSilent, ProbeFailed
from conformance.observers.peer.client import Peer, PeerChannel
from conformance.observers.wire import StreamReport
from conformance.waiting import until
from tests.observers.conftest import GUEST_MAC, PEER_MAC, Wire

pytestmark = pytest.mark.lab

UUID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
BOOT = "11111111-2222-3333-4444-555555555555"


def stream_with(fault: str, channel: PeerChannel, peer: Peer, address: str) -> StreamReport:
    """A stream of 50 records, of which the 20th is faulty."""
    channel.ask(f"stream-fault {fault}", 2)
    with peer.tcp_stream(address, interval_ms=5) as stream:
        until("50 records or a reset", lambda: (seen := stream.report()).reset or seen.received >= 50, seconds=10)
    return stream.report()


class TestTcpStream:
    def test_a_good_stream(self, channel: PeerChannel, peer: Peer, wire: Wire) -> None:
        report = stream_with("none", channel, peer, wire.guest_ipv4)
        assert (report.lost, report.duplicates, report.corrupted, report.reset) == (0, 0, 0, False)
        assert (report.reordered, report.restarts, report.monotonic_backwards) == (0, 0, 0)

    def test_a_pause_is_the_longest_gap(self, channel: PeerChannel, peer: Peer, wire: Wire) -> None:
        without = stream_with("none", channel, peer, wire.guest_ipv6)
        report = stream_with("pause", channel, peer, wire.guest_ipv6)
        assert report.longest_gap_ms >= 299
        assert without.longest_gap_ms < report.longest_gap_ms
        assert (report.lost, report.reset) == (0, False)

    def test_a_silence_that_goes_on_is_a_gap(self, channel: PeerChannel, peer: Peer, wire: Wire) -> None:
        channel.ask("stream-fault none", 2)
        with peer.tcp_stream(wire.guest_ipv4, interval_ms=60_000) as stream:
            until("the first record", lambda: stream.report().received, seconds=5)
            until("the silence to be seen", lambda: stream.report().longest_gap_ms > 400, seconds=5)

    def test_a_record_sent_twice_is_a_duplicate(self, channel: PeerChannel, peer: Peer, wire: Wire) -> None:
        report = stream_with("twice", channel, peer, wire.guest_ipv4)
        assert (report.duplicates, report.lost, report.reordered) == (1, 0, 0)

    def test_skipped_records_are_lost(self, channel: PeerChannel, peer: Peer, wire: Wire) -> None:
        report = stream_with("skip", channel, peer, wire.guest_ipv4)
        assert (report.lost, report.duplicates) == (5, 0)

    def test_a_flipped_bit_is_corruption(self, channel: PeerChannel, peer: Peer, wire: Wire) -> None:
        report = stream_with("corrupt", channel, peer, wire.guest_ipv4)
        assert (report.corrupted, report.reset) == (1, False)

    def test_a_clock_that_goes_back_is_seen(self, channel: PeerChannel, peer: Peer, wire: Wire) -> None:
        assert stream_with("backwards", channel, peer, wire.guest_ipv4).monotonic_backwards == 1

    def test_a_reset_is_seen(self, channel: PeerChannel, peer: Peer, wire: Wire) -> None:
        report = stream_with("reset", channel, peer, wire.guest_ipv4)
        assert report.reset
        assert report.received == 20

    def test_nobody_there_is_silence(self, peer: Peer) -> None:
        with pytest.raises(GuestSilent), peer.tcp_stream("10.98.76.77", timeout_s=0.3):
            pass


class TestHeartbeats:
    @staticmethod
    def beat(
        channel: PeerChannel, peer: Peer, sequence: int, at_ms: int = 0, boot: str = BOOT, uuid: str = UUID
    ) -> None:
        channel.ask(f"beat {peer.ipv4} {peer.heartbeat_port} HVB1 {uuid} {boot} {sequence} {at_ms * 10**6} 0", 2)

    def test_beats_are_counted_by_sequence(self, channel: PeerChannel, peer: Peer) -> None:
        with peer.heartbeats(UUID.upper()) as beats:
            for sequence in (7, 8, 11, 10, 10, 12):  # 9 lost, 10 late, and once more
                self.beat(channel, peer, sequence, at_ms=sequence * 100)
            until("six beats", lambda: beats.report().received == 6, seconds=5)
        report = beats.report()
        assert (report.lost, report.reordered, report.duplicates) == (1, 1, 1)
        assert (report.restarts, report.monotonic_backwards, report.corrupted) == (0, 0, 0)
        assert report.longest_guest_gap_ms == 300

    def test_a_restart_is_a_new_boot_id(self, channel: PeerChannel, peer: Peer) -> None:
        with peer.heartbeats(UUID) as beats:
            self.beat(channel, peer, 500, at_ms=5000)
            self.beat(channel, peer, 0, at_ms=10, boot=BOOT.replace("1", "9"))
            until("two beats", lambda: beats.report().received == 2, seconds=5)
        report = beats.report()
        assert (report.restarts, report.lost, report.duplicates, report.monotonic_backwards) == (1, 0, 0, 0)

    def test_a_clock_that_goes_back_is_seen(self, channel: PeerChannel, peer: Peer) -> None:
        with peer.heartbeats(UUID) as beats:
            self.beat(channel, peer, 1, at_ms=5000)
            self.beat(channel, peer, 2, at_ms=4000)
            until("two beats", lambda: beats.report().received == 2, seconds=5)
        assert beats.report().monotonic_backwards == 1

    def test_other_guests_and_garbage_do_not_count(self, channel: PeerChannel, peer: Peer) -> None:
        with peer.heartbeats(UUID) as beats:
            self.beat(channel, peer, 1, uuid=UUID.replace("a", "f"))
            channel.ask(f"beat {peer.ipv4} {peer.heartbeat_port} nothing of the kind", 2)
            channel.ask(f"beat {peer.ipv4} {peer.heartbeat_port} HVB1 {UUID} {BOOT} x 0 0", 2)
            self.beat(channel, peer, 1)
            until("the beat", lambda: beats.report().received, seconds=5)
        assert (beats.report().received, beats.report().corrupted) == (1, 1)


class TestPing:
    @pytest.mark.parametrize("version", ["guest_ipv4", "guest_ipv6"])
    def test_the_mtu_passes_and_one_more_does_not(self, peer: Peer, wire: Wire, version: str) -> None:
        address = getattr(wire, version)
        largest = 1500 - (20 if version == "guest_ipv4" else 40) - 8
        assert peer.ping(address, payload_bytes=largest, dont_fragment=True)
        assert not peer.ping(address, payload_bytes=largest + 1, dont_fragment=True)
        assert peer.ping(address, payload_bytes=largest + 1)  # in fragments

    def test_nobody_there_does_not_answer(self, peer: Peer) -> None:
        assert not peer.ping("10.98.76.77", timeout_s=0.3)
        assert not peer.ping("fe80::1234", timeout_s=0.3)
        assert not peer.ping("10.98.76.2", payload_bytes=0, timeout_s=0)

    def test_an_empty_payload(self, peer: Peer, wire: Wire) -> None:
        assert peer.ping(wire.guest_ipv4, payload_bytes=0)


class TestFrames:
    FORGED = bytes.fromhex(PEER_MAC.replace(":", "")) + b"\x02\xfa\xce\x00\x00\x01" + b"\x88\xb5" + b"forged".ljust(46)

    def send_from_guest(self, wire: Wire, frame: bytes) -> None:
        script = "import socket,sys; s=socket.socket(17,3,0); s.bind(('guest0',0)); s.send(bytes.fromhex(sys.argv[1]))"
        wire.guest.run(["python3", "-c", script, frame.hex()])

    def test_a_forged_frame_is_seen_and_no_other(self, peer: Peer, wire: Wire) -> None:
        with peer.sniff(source="02:fa:ce:00:00:01") as sniffer:
            before = time.time()
            assert peer.ping(wire.guest_ipv4)
            self.send_from_guest(wire, self.FORGED)
            frames = until("the frame", sniffer.frames, seconds=5)
        assert [(frame.source, frame.destination, frame.ethertype) for frame in frames] == [
            ("02:fa:ce:00:00:01", PEER_MAC, 0x88B5)
        ]
        assert frames[0].payload == b"forged".ljust(46)
        assert before <= frames[0].time_s <= time.time()

    def test_a_filter_by_destination(self, peer: Peer, wire: Wire) -> None:
        with peer.sniff(destination="02:fa:ce:00:00:09") as sniffer:
            self.send_from_guest(wire, self.FORGED)
            self.send_from_guest(wire, b"\x02\xfa\xce\x00\x00\x09" + self.FORGED[6:])
            until("the frame", sniffer.frames, seconds=5)
        assert [frame.destination for frame in sniffer.frames()] == ["02:fa:ce:00:00:09"]

    def test_foreign_traffic_is_unicast_for_somebody_else(self, peer: Peer, wire: Wire) -> None:
        with peer.sniff_foreign() as sniffer:
            assert peer.ping(wire.guest_ipv4)
            assert sniffer.frames() == []
            self.send_from_guest(wire, b"\x02\xfa\xce\x00\x00\x09" + self.FORGED[6:])
            until("the frame", sniffer.frames, seconds=5)

    def test_a_vlan_tag_is_kept(self, peer: Peer, wire: Wire) -> None:
        tagged = self.FORGED[:12] + b"\x81\x00\x00\x2a" + self.FORGED[12:]
        with peer.sniff(source="02:fa:ce:00:00:01") as sniffer:
            self.send_from_guest(wire, tagged)
            frames = until("the frame", sniffer.frames, seconds=5)
        assert (frames[0].ethertype, frames[0].payload[:4]) == (0x8100, b"\x00\x2a\x88\xb5")

    def test_what_the_peer_sends_arrives_and_is_not_its_own_observation(self, peer: Peer, wire: Wire) -> None:
        other = Peer("cable", "guest0", wire.guest)
        frame = bytes.fromhex(GUEST_MAC.replace(":", "")) + self.FORGED[6:]
        try:
            with other.sniff(source="02:fa:ce:00:00:01") as there, peer.sniff(source="02:fa:ce:00:00:01") as here:
                peer.send_frame(frame)
                until("the frame", there.frames, seconds=5)
                assert not here.frames()
        finally:
            other.close()
        with pytest.raises(ProbeFailed, match="no whole Ethernet header"):
            peer.send_frame(b"short")

    def test_a_capture_that_overflowed_does_not_pretend(self, peer: Peer, wire: Wire) -> None:
        script = (
            "import socket,sys\ns=socket.socket(17,3,0); s.bind(('guest0',0))\n"
            "for _ in range(21000): s.send(bytes.fromhex(sys.argv[1]))"
        )
        with peer.sniff() as nothing_lost:
            self.send_from_guest(wire, self.FORGED)
            until("the frame", nothing_lost.frames, seconds=5)
        capture = peer.sniff(source="02:fa:ce:00:00:01")
        sniffer = capture.__enter__()
        wire.guest.run(["python3", "-c", script, self.FORGED.hex()])
        with pytest.raises(ProbeFailed, match="not complete"):
            sniffer.frames()
        with pytest.raises(ProbeFailed, match="not complete"):
            capture.__exit__(None, None, None)


def test_leases_come_from_the_servers_file(wire: Wire, tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.write_text(
        f"9999999999 {GUEST_MAC} 10.98.76.2 * 01:{GUEST_MAC}\n"
        "1000000000 02:68:76:00:00:03 10.98.76.3 * *\n"
        f"duid 00:01\n9999999999 {GUEST_MAC} fd00::2 * *\n"
    )
    peer = wire.open_peer(leases)
    try:
        assert peer.lease(GUEST_MAC.upper()) == "10.98.76.2"
        assert peer.lease("02:68:76:00:00:03") is None, "it has run out"
        assert peer.lease("02:68:76:00:00:04") is None
        leases.unlink()
        with pytest.raises(ProbeFailed, match="leases"):
            peer.lease(GUEST_MAC)
    finally:
        peer.close()


def test_neighbours_are_those_that_answered(peer: Peer, wire: Wire) -> None:
    assert peer.ping(wire.guest_ipv4)
    assert not peer.ping("10.98.76.77", timeout_s=0.3)
    known = peer.neighbours()
    assert known[wire.guest_ipv4] == GUEST_MAC
    assert "10.98.76.77" not in known


def test_the_peer_knows_its_addresses(peer: Peer) -> None:
    assert (peer.mac, peer.ipv4) == (PEER_MAC, "10.98.76.1")
    assert peer.ipv6.startswith("fe80::")
