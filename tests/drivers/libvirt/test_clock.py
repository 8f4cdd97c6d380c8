"""A guest's clock is set again until it was set without delay: what a busy guest was told is old when it hears it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.waiting import use_clock
from drivers.libvirt.kvm import KVM
from drivers.libvirt.power import Power


class Time:
    """A clock that stands still but for what it is told."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock() -> Iterator[Time]:
    clock = Time()
    use_clock(clock)
    yield clock
    use_clock(None)


@pytest.mark.parametrize(("delays", "asked"), [([0.1], 1), ([2.0, 0.6, 0.1], 3), ([2.0] * 9, 3)])
def test_a_clock_is_set_until_it_is_right_or_the_guest_is_too_slow(
    delays: list[float], asked: int, clock: Time
) -> None:
    told: list[Any] = []

    def set_time(what: Any, flags: int) -> None:
        told.append((what, flags))
        clock.at += delays[len(told) - 1]

    driver: Any = SimpleNamespace(_flavour=KVM, _agent_connected=lambda _: True, _clock_is_set=Power._clock_is_set)
    Power._set_clock(driver, SimpleNamespace(dom=SimpleNamespace(setTime=set_time)))  # type: ignore[arg-type]

    assert len(told) == asked
