"""Keeps count of a sequenced stream: what arrived, what is missing, what came twice, and the longest silence.

Part of the peer process: standard library only, Python 3.10 and later.
"""

from __future__ import annotations

import threading
from typing import Any

_REMEMBERED = 100_000  # missing numbers remembered, so that a forged jump of the sequence cannot eat the memory


class Tally:
    """Counts the records of one sender.

    Args:
        start: Monotonic seconds at which listening began; the silence before the first record counts too.
        first: The first sequence number expected, or None to take whatever comes first.
    """

    def __init__(self, start: float, first: int | None = None) -> None:
        self._lock = threading.Lock()
        self._last_at = start
        self._ended: float | None = None
        self._next = first
        self._missing: set[int] = set()
        self._boot_id: str | None = None
        self._guest_ns: int | None = None
        self._gap = 0.0
        self._guest_gap_ns = 0
        self._counts = dict.fromkeys(
            ("received", "lost", "duplicates", "reordered", "corrupted", "restarts", "monotonic_backwards"), 0
        )
        self._reset = False

    def arrived(self, sequence: int, boot_id: str, guest_ns: int, at: float) -> None:
        """One good record; `guest_ns` is the sender's monotonic clock, `at` ours in seconds."""
        with self._lock:
            self._gap = max(self._gap, at - self._last_at)
            self._last_at = at
            self._counts["received"] += 1
            if self._boot_id is not None and boot_id != self._boot_id:
                self._counts["restarts"] += 1
                self._next, self._guest_ns = None, None
                self._missing.clear()  # they stay counted as lost: nobody will send them any more
            self._boot_id = boot_id
            if self._next is None or sequence >= self._next:
                self._advance(sequence, guest_ns)
            elif sequence in self._missing:
                self._missing.discard(sequence)
                self._counts["lost"] -= 1
                self._counts["reordered"] += 1
            else:
                self._counts["duplicates"] += 1

    def _advance(self, sequence: int, guest_ns: int) -> None:
        expected = sequence if self._next is None else self._next
        self._counts["lost"] += sequence - expected
        room = _REMEMBERED - len(self._missing)
        self._missing.update(range(max(expected, sequence - room), sequence))
        self._next = sequence + 1
        if self._guest_ns is not None:
            if guest_ns < self._guest_ns:
                self._counts["monotonic_backwards"] += 1
            self._guest_gap_ns = max(self._guest_gap_ns, guest_ns - self._guest_ns)
        self._guest_ns = guest_ns

    def corrupted(self) -> None:
        with self._lock:
            self._counts["corrupted"] += 1

    def was_reset(self) -> None:
        """The other side closed or reset the connection. The silence goes on being measured."""
        with self._lock:
            self._reset = True

    def end(self, at: float) -> None:
        """Listening ends; time after this is nobody's silence."""
        with self._lock:
            if self._ended is None:
                self._ended = at

    def report(self, at: float) -> dict[str, Any]:
        """The fields of a `StreamReport`, as seen at `at`: a silence that has not ended yet is measured up to here."""
        with self._lock:
            until = at if self._ended is None else self._ended
            return {
                **self._counts,
                "longest_gap_ms": max(self._gap, until - self._last_at) * 1000,
                "longest_guest_gap_ms": self._guest_gap_ns / 1e6,
                "reset": self._reset,
            }
