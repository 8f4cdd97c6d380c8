"""Disk layers: what shows through, what is absorbed, and what does not fit."""

from __future__ import annotations

import pytest

from conformance.guest.pattern import pattern as reference
from labs.simulated.world.disks import BLOCK, Layer, Space
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.pattern import pattern

ONE, TWO = b"1" * BLOCK, b"2" * BLOCK


def test_a_layer_shows_what_is_below_until_it_is_written() -> None:
    base = Layer(4 * BLOCK)
    base.write(0, ONE)
    top = Layer(4 * BLOCK, backing=base)
    assert top.read(0, 2 * BLOCK) == ONE + bytes(BLOCK)

    top.write(0, TWO)

    assert top.read(0, BLOCK) == TWO
    assert base.read(0, BLOCK) == ONE


def test_absorbing_the_backing_changes_nothing_that_is_read() -> None:
    base, middle = Layer(4 * BLOCK), Layer(4 * BLOCK)
    base.write(0, ONE)
    middle.backing = base
    middle.write(BLOCK, TWO)
    top = Layer(4 * BLOCK, backing=middle)
    before = top.read(0, 4 * BLOCK)

    top.absorb_backing()

    assert top.backing is base
    assert top.read(0, 4 * BLOCK) == before
    middle.write(BLOCK, ONE)
    assert top.read(0, 4 * BLOCK) == before


def test_a_grown_disk_reads_zeros_where_the_backing_ends() -> None:
    base = Layer(BLOCK)
    base.write(0, ONE)
    top = Layer(2 * BLOCK, backing=base)
    assert top.read(0, 2 * BLOCK) == ONE + bytes(BLOCK)


def test_a_full_storage_takes_no_new_block_and_keeps_the_old_ones() -> None:
    space = Space("s")
    layer = Layer(4 * BLOCK, space=space)
    layer.write(0, ONE)
    space.full = True

    layer.write(0, TWO)
    with pytest.raises(HypervisorError) as failure:
        layer.write(BLOCK, ONE)

    assert failure.value.code == "no-space"
    assert layer.read(0, 2 * BLOCK) == TWO + bytes(BLOCK)


@pytest.mark.parametrize(("offset", "length"), [(0, 100), (-BLOCK, BLOCK), (4 * BLOCK, BLOCK), (0, 0)])
def test_ranges_outside_the_disk_are_refused(offset: int, length: int) -> None:
    with pytest.raises(HypervisorError):
        Layer(4 * BLOCK).read(offset, length)


def test_a_files_hash_follows_its_bytes() -> None:
    layer = Layer(4 * BLOCK)
    empty = layer.sha256()
    layer.write(0, ONE)
    assert layer.sha256() != empty


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("offset", [0, 3 * BLOCK])
def test_the_fast_pattern_is_the_guests_pattern(seed: int, offset: int) -> None:
    assert pattern(seed, offset, 2 * BLOCK) == reference(seed, offset, 2 * BLOCK)
