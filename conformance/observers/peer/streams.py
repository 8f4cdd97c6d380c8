"""Sequenced streams with guest agents: TCP both ways, and UDP heartbeats of all guests on one port.

Part of the peer process: standard library only, Python 3.10 and later. Formats: docs/guest-agent.md.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from conformance.observers.peer.tally import Tally

STREAM_PORT = 7779
RECORD = struct.Struct("<4sIQQ36s")
RECORD_BYTES = RECORD.size + 4
_UNSENT_BYTES = 64 * RECORD_BYTES
_GLANCE_S = 0.1  # how late the end of a stream may be noticed


def pack_record(sequence: int, monotonic_ns: int, boot_id: str = "") -> bytes:
    """One record of the TCP stream."""
    body = RECORD.pack(b"HVS1", 0, sequence, monotonic_ns, boot_id.encode("ascii"))
    return body + struct.pack("<I", zlib.crc32(body))


def unpack_record(record: bytes) -> tuple[int, int, str] | None:
    """Sequence, sender's monotonic nanoseconds and boot id; None when the record is corrupt."""
    body, (checksum,) = record[:-4], struct.unpack("<I", record[-4:])
    magic, reserved, sequence, monotonic_ns, boot_id = RECORD.unpack(body)
    if magic != b"HVS1" or reserved != 0 or checksum != zlib.crc32(body):
        return None
    return sequence, monotonic_ns, boot_id.rstrip(b"\0").decode("ascii", "replace")


class TcpStream:
    """A stream with one guest, run by a thread of its own."""

    def __init__(self, connection: socket.socket, interval_ms: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._connection = connection
        self._interval = interval_ms / 1000
        self._unsent = bytearray(f"{interval_ms}\n".encode())
        self._unread = bytearray()
        self._sent = 0
        self._stopping = threading.Event()
        self._tally = Tally(time.monotonic(), first=0)
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def report(self) -> dict[str, Any]:
        return self._tally.report(time.monotonic())

    def close(self) -> dict[str, Any]:
        """End the stream; returns the last report."""
        self._tally.end(time.monotonic())
        self._stopping.set()
        self._thread.join()
        return self.report()

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stopping.is_set():
                now = time.monotonic()
                if now >= due:
                    due = max(due + self._interval, now)
                    # a guest that does not read (paused, say) must not make this process hoard records
                    if len(self._unsent) < _UNSENT_BYTES:
                        self._unsent += pack_record(self._sent, time.monotonic_ns())
                        self._sent += 1
                wanted = [self._connection] if self._unsent else []
                patience = min(_GLANCE_S, max(0.0, due - time.monotonic()))
                readable, writable, _ = select.select([self._connection], wanted, [], patience)
                if writable:
                    del self._unsent[: self._connection.send(self._unsent)]
                if readable and not self._read(self._connection.recv(65536)):
                    self._tally.was_reset()
                    return
        except OSError:  # reset, or given up by the kernel
            self._tally.was_reset()
        finally:
            self._connection.close()

    def _read(self, data: bytes) -> bool:
        at = time.monotonic()
        self._unread += data
        while len(self._unread) >= RECORD_BYTES:
            record = unpack_record(bytes(self._unread[:RECORD_BYTES]))
            del self._unread[:RECORD_BYTES]
            if record is None:
                self._tally.corrupted()
            else:
                sequence, monotonic_ns, boot_id = record
                self._tally.arrived(sequence, boot_id, monotonic_ns, at)
        return bool(data)


_BEAT = re.compile(rb"HVB1 (\S{1,64}) (\S{1,64}) (\d{1,19}) (\d{1,19}) (\d{1,19})\s*")
_BEAT_SENDER = re.compile(rb"HVB1 (\S{1,64})(?:\s|$)")


class Heartbeats:
    """Receives the UDP heartbeats of all guests on one port and hands each to whoever follows that guest."""

    def __init__(self, bind: Callable[[socket.socket], None]) -> None:
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bind(self._socket)
        self._socket.bind(("::", 0))
        self.port: int = self._socket.getsockname()[1]
        self._lock = threading.Lock()
        self._followers: list[tuple[str, Tally]] = []
        threading.Thread(target=self._run, name="heartbeats", daemon=True).start()

    def follow(self, uuid: str) -> Follower:
        """Start counting the heartbeats of the guest with this SMBIOS UUID."""
        entry = (uuid.lower(), Tally(time.monotonic()))
        with self._lock:
            self._followers.append(entry)
        return Follower(self, entry)

    def leave(self, entry: tuple[str, Tally]) -> None:
        with self._lock:
            self._followers = [other for other in self._followers if other is not entry]

    def _run(self) -> None:
        while True:
            datagram = self._socket.recv(2048)
            at = time.monotonic()
            sender = _BEAT_SENDER.match(datagram)
            if sender is None:
                continue
            uuid = sender[1].decode("ascii", "replace").lower()
            beat = _BEAT.fullmatch(datagram)
            with self._lock:
                tallies = [tally for followed, tally in self._followers if followed == uuid]
            for tally in tallies:
                if beat is None:
                    tally.corrupted()
                else:
                    tally.arrived(int(beat[3]), beat[2].decode("ascii", "replace"), int(beat[4]), at)


class Follower:
    """The count of one guest's heartbeats."""

    def __init__(self, heartbeats: Heartbeats, entry: tuple[str, Tally]) -> None:
        self._heartbeats = heartbeats
        self._entry = entry

    def report(self) -> dict[str, Any]:
        return self._entry[1].report(time.monotonic())

    def close(self) -> dict[str, Any]:
        """Stop counting; returns the last report."""
        self._entry[1].end(time.monotonic())
        self._heartbeats.leave(self._entry)
        return self.report()
