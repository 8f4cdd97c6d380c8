"""The pattern of `conformance.guest.pattern`, many words at a time: the world writes megabytes of it in every run.

SplitMix64 on one big integer that holds a word in every 128 bits, so that no multiplication carries into the next word.
"""

from __future__ import annotations

from array import array
from functools import lru_cache

_WORDS = 512
_LANE = 128
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_ONES = sum(1 << (_LANE * lane) for lane in range(_WORDS))
_MASKS = _ONES * _MASK
_STEPS = sum((((lane + 1) * _GOLDEN) & _MASK) << (_LANE * lane) for lane in range(_WORDS))


def _mix(z: int, mask: int) -> int:
    z = ((z ^ ((z >> 30) & mask)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ ((z >> 27) & mask)) * 0x94D049BB133111EB) & mask
    return z ^ ((z >> 31) & mask)


@lru_cache(maxsize=2048)
def block(seed: int, index: int) -> bytes:
    """Block `index` of 4096 bytes of the pattern made from `seed`."""
    start = (_mix(seed & _MASK, _MASK) + index * _WORDS * _GOLDEN) & _MASK
    words = array("Q", _mix((_STEPS + _ONES * start) & _MASKS, _MASKS).to_bytes(_WORDS * _LANE // 8, "little"))
    return words[::2].tobytes()


def pattern(seed: int, offset_bytes: int, length_bytes: int) -> bytes:
    """The bytes that the agent writes at this offset; both numbers are multiples of 4096."""
    if offset_bytes % 4096 or length_bytes % 4096 or min(offset_bytes, length_bytes) < 0:
        raise ValueError(f"offset {offset_bytes} and length {length_bytes} must be multiples of 4096, not negative")
    return b"".join(block(seed, index) for index in range(offset_bytes // 4096, (offset_bytes + length_bytes) // 4096))
