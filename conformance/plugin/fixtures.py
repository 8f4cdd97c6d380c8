"""The fixtures that tests are written with; there only in a run on a lab, so that the plugin is inert elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import allure
import pytest

from conformance.contract import Contract
from conformance.driver import Driver
from conformance.lab.inventory import LabInventory, Target
from conformance.lab.lab import Observers
from conformance.machine import Machine, Machines, Pace
from conformance.observers.wire import WirePeer
from conformance.plugin.runner import NAME, Runner
from conformance.plugin.verdicts import undeleted
from conformance.plugin.worker import Opened
from conformance.record import Figure, Measure, Measured

Build = Callable[[Machines], Any]


def _runner(request: pytest.FixtureRequest) -> Runner:
    return cast(Runner, request.config.pluginmanager.getplugin(NAME))


@pytest.fixture(autouse=True)
def _watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """First in, last out: looks at the hosts before the test and after its machines are gone."""
    runner = _runner(request)
    if not runner.is_ours(request.node):
        yield
        return
    with runner.watched(request.node):
        yield


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> LabInventory:
    """The leased lab."""
    return _runner(request).worker.lab


@pytest.fixture(scope="session")
def observers(request: pytest.FixtureRequest) -> Observers:
    """The observers of the lab."""
    return _runner(request).worker.observers


@pytest.fixture(scope="session")
def contract(request: pytest.FixtureRequest) -> Contract:
    """The contract that the suites are written to."""
    return _runner(request).contract


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, lab: LabInventory) -> Target:
    """The target under test; parametrized by its slug."""
    if not hasattr(request, "param"):
        pytest.fail("a test that uses the lab needs the mark requirement('area.what')", pytrace=False)
    return lab.target(request.param)


@pytest.fixture(scope="session")
def provenance(request: pytest.FixtureRequest) -> str:
    """How the VM under a steady check came to its state."""
    return str(request.param)


@pytest.fixture(scope="session")
def _opened(request: pytest.FixtureRequest, target: Target) -> Opened:
    return _runner(request).worker.opened(target.slug)


@pytest.fixture(scope="session")
def driver(_opened: Opened) -> Driver:
    """The driver under test, recorded."""
    return _opened.driver


@pytest.fixture(scope="session")
def reconnect(_opened: Opened) -> Callable[[], Driver]:
    """Makes a second, fresh driver for the same target, as another process would; whoever asks for it closes it."""
    return _opened.connect


@pytest.fixture(scope="session")
def pace(_opened: Opened) -> Pace:
    """How fast the lab is."""
    return _opened.pace


@pytest.fixture
def machines(_opened: Opened, request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Makes VMs, and gets rid of them after the test."""
    made = _opened.machines()
    _runner(request).involve(request.node, made)
    yield made
    undeleted(made.dispose())


@pytest.fixture
def machine(machines: Machines) -> Machine:
    """The default VM, up."""
    return machines.boot()


@pytest.fixture
def peer(lab: LabInventory, observers: Observers) -> WirePeer:
    """The wire peer in the first network."""
    return observers.peer(lab.networks[0].name)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measure:
    """`measured("longest gap", 708.2, "ms", at_most=2000)` reports a figure, and fails beyond its bound."""
    runner = _runner(request)

    def take(what: str, value: float, unit: str, *, at_most: float | None = None) -> None:
        figure = Figure(what=what, value=value, unit=unit, at_most=at_most)
        runner.worker.recorder.write(Measured(item=request.node.nodeid, figure=figure))
        # no part of the test's identity
        allure.dynamic.parameter(what, figure.text, excluded=True)
        assert at_most is None or value <= at_most, str(figure)

    return take


@pytest.fixture
def steady(
    request: pytest.FixtureRequest, target: Target, provenance: str
) -> Callable[[Callable[[Machines], Any]], Any]:
    """`steady(build)` is `build(machines)`, called once for all tests of this target and provenance.

    The machines live until the last of those tests; what they leave behind is that test's residue.
    """
    runner = _runner(request)
    return lambda build: runner.steady(request.node, target.slug, provenance, build)
