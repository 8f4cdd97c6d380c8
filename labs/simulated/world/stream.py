"""The sequenced stream's records, and what a receiver works out from them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from conformance.observers.wire import StreamReport

RECORD = struct.Struct("<4sIQQ36s")
RECORD_BYTES = RECORD.size + 4


def record(sequence: int, monotonic_ns: int, boot_id: str) -> bytes:
    """One 64-byte record."""
    body = RECORD.pack(b"HVS1", 0, sequence, monotonic_ns, boot_id.encode())
    return body + struct.pack("<I", zlib.crc32(body))


def parse_record(data: bytes) -> tuple[int, int, str] | None:
    """(sequence, sender's monotonic nanoseconds, boot id), or None for a corrupt record."""
    magic, _, sequence, monotonic_ns, boot_id = RECORD.unpack(data[: RECORD.size])
    if magic != b"HVS1" or data[RECORD.size :] != struct.pack("<I", zlib.crc32(data[: RECORD.size])):
        return None
    return sequence, monotonic_ns, boot_id.rstrip(b"\0").decode("ascii", "replace")


@dataclass(slots=True)
class Tracker:
    """Counts what arrives of a sequenced stream. Times are nanoseconds of the receiver."""

    started_ns: int
    received: int = 0
    lost: int = 0
    duplicates: int = 0
    reordered: int = 0
    corrupted: int = 0
    restarts: int = 0
    backwards: int = 0
    gap_ns: int = 0
    guest_gap_ns: int = 0
    last_ns: int = 0
    highest: int = -1
    boot_id: str = ""
    sender_ns: int = 0

    def arrived(self, now_ns: int, sequence: int, sender_ns: int, boot_id: str) -> None:
        """Account for one record."""
        self.gap_ns = max(self.gap_ns, now_ns - (self.last_ns or self.started_ns))
        self.last_ns = now_ns
        self.received += 1
        if boot_id != self.boot_id:
            self.restarts += bool(self.boot_id)
            self.boot_id = boot_id
            self.highest = sequence
            self.sender_ns = sender_ns
            return
        if sequence == self.highest + 1:
            self.highest = sequence
        elif sequence > self.highest:
            self.lost += sequence - self.highest - 1
            self.highest = sequence
        else:
            self.duplicates += 1
        if sender_ns < self.sender_ns:
            self.backwards += 1
        self.guest_gap_ns = max(self.guest_gap_ns, sender_ns - self.sender_ns)
        self.sender_ns = sender_ns

    def report(self, now_ns: int, *, reset: bool = False) -> StreamReport:
        gap = max(self.gap_ns, now_ns - (self.last_ns or self.started_ns))
        return StreamReport(
            received=self.received,
            lost=self.lost,
            duplicates=self.duplicates,
            reordered=self.reordered,
            longest_gap_ms=gap / 1e6,
            corrupted=self.corrupted,
            reset=reset,
            restarts=self.restarts,
            monotonic_backwards=self.backwards,
            longest_guest_gap_ms=self.guest_gap_ns / 1e6,
        )
