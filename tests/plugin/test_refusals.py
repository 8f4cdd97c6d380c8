"""What a driver does not declare is asked for, and has to be refused in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.record import DriverCall
from tests.plugin.conftest import Run

pytest_plugins = ["pytester"]

PAUSES = """
@requirement("pause.stops-and-continues")
def test_pauses(driver, machine):
    raise AssertionError("the body must not run")

@requirement("boot.correct-image")
@pytest.mark.capability(Capability.PAUSE)
def test_also_needs(driver, machine):
    raise AssertionError("the body must not run")
"""

UNDECLARED = """
class Without(SimulatedDriver):
    def capabilities(self):
        return {c: d for c, d in super().capabilities().items() if c is not Capability.PAUSE}
    def pause(self, vm):
        BODY
labs.driver_class = lambda name: Without
"""


@pytest.fixture
def pause_requirement() -> str:
    from conformance import contract
    from conformance.model import Capability

    return next(row.id for row in contract.load().requirements.values() if row.capability is Capability.PAUSE)


def test_undeclared_and_refused_is_not_claimed(run: Callable[..., Run], pause_requirement: str) -> None:
    done = run(
        PAUSES.replace("pause.stops-and-continues", pause_requirement),
        conftest=UNDECLARED.replace(
            "BODY", "raise Unsupported('no pause here', capability='pause', operation='pause')"
        ),
    )

    assert done.verdicts() == {"test_pauses": "not-claimed", "test_also_needs": "not-claimed"}
    assert all("no pause here" in event.refusal for event in done.finished().values())
    assert done.code == 0
    asked = [event for event in done.events if isinstance(event, DriverCall) and event.operation == "pause"]
    assert len(asked) == 1, "a refusal is asked for once"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param("return super().pause(vm)", "pause is not declared, yet it was done", id="done"),
        pytest.param("raise InvalidState(current='running')", "InvalidState", id="wrong-error"),
        pytest.param(
            "super().pause(vm).wait(); raise Unsupported(capability='pause')", "changed the power state", id="changed"
        ),
    ],
)
def test_undeclared_and_not_refused_fails(run: Callable[..., Run], pause_requirement: str, body: str, why: str) -> None:
    done = run(
        PAUSES.replace("pause.stops-and-continues", pause_requirement), conftest=UNDECLARED.replace("BODY", body)
    )

    assert set(done.verdicts().values()) == {"fail"}
    assert all(why in event.message for event in done.finished().values())


ASKS_FOR_THREE = """
from conformance import asking

@requirement("cap.undeclared-refused")
def test_asks(driver, machines):
    undeclared = {Capability.RESIZE_COLD, Capability.PAUSE, Capability.CLONE}
    refusals = asking.check(undeclared, driver, machines)
    assert refusals.keys() == undeclared
    assert all("no " + capability in refusal for capability, refusal in refusals.items())
    assert len(machines.made) == 1
"""

REFUSES_THREE = """
class Without(SimulatedDriver):
    def resize(self, vm, **_):
        assert self.get(vm).power == "stopped"
        raise Unsupported("no resize.cold", capability="resize.cold", operation="resize")
    def pause(self, vm):
        raise Unsupported("no pause", capability="pause", operation="pause")
    def clone(self, *_):
        raise Unsupported("no clone", capability="clone", operation="clone")
labs.driver_class = lambda name: Without
"""


def test_one_vm_is_asked_for_all_that_is_undeclared(run: Callable[..., Run]) -> None:
    done = run(ASKS_FOR_THREE, conftest=REFUSES_THREE)

    assert done.verdicts() == {"test_asks": "pass"}


BY_RESTART = """
from conformance import asking

@requirement("cap.undeclared-refused")
def test_asks(driver, machines):
    undeclared = {Capability.RESIZE_HOT_VCPU, Capability.RESIZE_HOT_MEMORY}
    refusals = asking.check(undeclared, driver, machines)
    assert refusals == dict.fromkeys(undeclared, "carried out by a restart")
    assert len(machines.made) == 2
"""

RESTARTS = """
from conformance.model import StopMode
class Restarting(SimulatedDriver):
    def capabilities(self):
        hot = (Capability.RESIZE_HOT_VCPU, Capability.RESIZE_HOT_MEMORY)
        return {c: d for c, d in super().capabilities().items() if c not in hot}
    def resize(self, vm, **wanted):
        assert (self.get(vm).vcpus, self.get(vm).memory_mib) == (1, 128), "this VM was resized before"
        super().stop(vm, StopMode.FORCE).wait()
        super().resize(vm, **wanted).wait()
        return super().start(vm)
labs.driver_class = lambda name: Restarting
"""


def test_a_vm_that_was_restarted_with_more_is_asked_for_nothing_else(run: Callable[..., Run]) -> None:
    assert run(BY_RESTART, conftest=RESTARTS).verdicts() == {"test_asks": "pass"}
