"""Fixtures of the steady checks: one VM for all checks of a target and a provenance."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.driver import Driver
from conformance.machine import Machine, Machines
from suites.provenances import Stage, Steady, bring


@pytest.fixture
def steady(
    steady: Callable[[Callable[[Machines], Steady]], Steady],
    provenance: str,
    driver: Driver,
    reconnect: Callable[[], Driver],
) -> Steady:
    """The VM of this provenance, made for the first of its checks and kept for the others."""
    return steady(lambda machines: bring(provenance, Stage(driver, machines, reconnect)))


@pytest.fixture
def steady_machine(steady: Steady) -> Machine:
    """The machine of `steady`."""
    return steady.machine
