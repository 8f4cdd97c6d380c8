"""The pattern in Python: fixed values, so that no rewrite changes what is on disks already."""

from __future__ import annotations

import pytest

from conformance.guest.pattern import pattern, pattern_sha256


def test_pattern_is_splitmix64() -> None:
    # mix(0) is 0, so seed 0 is SplitMix64 from state 0, whose first outputs are published with its reference code
    assert [int.from_bytes(pattern(0, at, 8), "little") for at in (0, 8, 16)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_a_part_of_the_pattern_is_the_pattern_of_the_part() -> None:
    whole = pattern(7, 0, 8192)
    assert whole[4096:] == pattern(7, 4096, 4096)
    assert whole[:4096] != whole[4096:]


def test_seeds_differ() -> None:
    assert pattern_sha256(1, 0, 4096) != pattern_sha256(2, 0, 4096)


@pytest.mark.parametrize(("seed", "offset", "length"), [(0, 4, 8), (0, 0, 7), (-1, 0, 8), (1 << 64, 0, 8), (0, -8, 8)])
def test_what_is_no_pattern_is_refused(seed: int, offset: int, length: int) -> None:
    with pytest.raises(ValueError, match=r"multiples of 8|seed"):
        pattern(seed, offset, length)
