"""The pattern on the guest's disks and in its memory: word i is output i of SplitMix64 started from mix(seed).

Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. The agent's agent/hash.c makes the
same bytes.
"""

from __future__ import annotations

import hashlib
import struct

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def pattern(seed: int, offset_bytes: int, length_bytes: int) -> bytes:
    """The bytes that `disk-write` puts at this offset; of memory, the offset counts from the start of the area.

    Args:
        seed: Below 2**64.
        offset_bytes: From the start of the disk; a multiple of 8.
        length_bytes: A multiple of 8.

    Raises:
        ValueError: Offset or length is not a multiple of 8, or a number is out of range.
    """
    if offset_bytes % 8 or length_bytes % 8 or min(offset_bytes, length_bytes) < 0:
        raise ValueError(f"offset {offset_bytes} and length {length_bytes} must be multiples of 8, not negative")
    if not 0 <= seed <= _MASK:
        raise ValueError(f"seed {seed} is not below 2**64")
    start, first, count = _mix(seed), offset_bytes // 8 + 1, length_bytes // 8
    words = (_mix((start + index * _GOLDEN) & _MASK) for index in range(first, first + count))
    return struct.pack(f"<{count}Q", *words)


def pattern_sha256(seed: int, offset_bytes: int, length_bytes: int) -> str:
    """SHA-256 of `pattern`, as the agent answers to `disk-write` and `disk-hash`."""
    return hashlib.sha256(pattern(seed, offset_bytes, length_bytes)).hexdigest()
