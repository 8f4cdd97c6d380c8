"""Honesty about capabilities: what is declared can be done, what is not declared is refused, and neither changes."""

from __future__ import annotations

import pytest

from conformance import asking
from conformance.contract import Contract, check
from conformance.driver import Driver, disagreements
from conformance.machine import Machine, Machines
from conformance.model import Capability, StopMode

requirement = pytest.mark.requirement


def proven_elsewhere(contract: Contract) -> set[Capability]:
    """The capabilities that a test of another requirement needs, and so proves where they are declared."""
    suites = check.suites_folder()
    assert suites is not None
    tested = check.coverage(check.find_tests(suites))
    return {need for id in tested for need in contract.get(id).needs}


@requirement("cap.declared-works")
def test_cap_declared_works(driver: Driver, machines: Machines, contract: Contract) -> None:
    declared = set(driver.capabilities())
    assert declared, "nothing is declared at all"
    assert not disagreements(driver)

    for capability in sorted(declared - proven_elsewhere(contract)):
        assert capability in asking.ASK, f"{capability} is declared, and there is no call that could prove it"
        asking.prove(capability, driver, machines)


@requirement("cap.undeclared-refused")
def test_cap_undeclared_refused(driver: Driver, machines: Machines) -> None:
    undeclared = asking.ASK.keys() - driver.capabilities().keys()

    refusals = asking.check(undeclared, driver, machines)

    assert refusals.keys() == undeclared
    assert all(refusals.values())


@requirement("cap.static-during-run")
def test_cap_static_during_run(driver: Driver, machine: Machine) -> None:
    before = dict(driver.capabilities())

    driver.stop(machine.id, StopMode.FORCE).wait()
    driver.start(machine.id).wait()

    assert dict(driver.capabilities()) == before
