"""A guest's clock is set again until it was set without delay: what a busy guest was told is old when it hears it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from drivers.libvirt.kvm import KVM
from drivers.libvirt.power import Power
from tests.drivers.libvirt.conftest import Time


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
