"""What a double cannot show is said to be so, and no double passes for more than it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugin.conftest import Run

pytest_plugins = ["pytester"]

SUITE = """
@requirement("boot.correct-image")
def test_never_run():
    raise AssertionError("it cannot be shown here, and was run")

@requirement("boot.correct-root-device")
def test_run(machine):
    assert machine.guest.answers()
"""

DOUBLE = """
from labs.simulated import SimulatedLab
really_up = SimulatedLab.up.__func__

@classmethod
def up(cls, cell, state_dir, say):
    return really_up(cls, cell, state_dir, say).model_copy(update={"evidence": Evidence.EVIDENCE})

SimulatedLab.up = up
SimulatedLab.not_testable = classmethod(lambda cls: MANIFEST)
"""

MANIFEST = '{"boot.correct-im*": "there are no images in here"}'


def double(evidence: str, manifest: str = MANIFEST) -> str:
    return DOUBLE.replace("Evidence.EVIDENCE", f"Evidence.{evidence}").replace("MANIFEST", manifest)


def test_a_requirement_of_the_manifest_is_not_testable_here(run: Callable[..., Run]) -> None:
    done = run(SUITE, conftest=double("OWN_DOUBLE"))

    assert done.verdicts() == {"test_never_run": "not-testable-here", "test_run": "pass"}
    (said,) = [event for name, event in done.finished().items() if name.startswith("test_never_run")]
    assert said.message == "there are no images in here"
    assert done.code == 0


def test_without_a_manifest_everything_is_run(run: Callable[..., Run]) -> None:
    assert run(SUITE, conftest=double("OWN_DOUBLE", "{}")).verdicts()["test_never_run"] == "fail"


def test_a_lab_that_claims_to_be_real_has_no_such_requirements(run: Callable[..., Run]) -> None:
    done = run(SUITE, conftest=double("NESTED"))

    assert set(done.verdicts().values()) == {"lab-error"}
    assert "a double, and claims evidence nested" in done.result.stdout.str()


@pytest.mark.parametrize(("evidence", "code"), [("HARDWARE", 6), ("NESTED", 6), ("OWN_DOUBLE", 0)])
def test_a_double_that_says_so_aborts_a_run_that_claims_more(run: Callable[..., Run], evidence: str, code: int) -> None:
    marked = """
import dataclasses
really = SimulatedDriver.facts
SimulatedDriver.facts = lambda self: dataclasses.replace(really(self), double="a double of ours")
"""
    suite = '@requirement("boot.correct-image")\ndef test_it(machine): pass\n'
    done = run(suite, conftest=double(evidence, "{}") + marked)

    assert done.code == code
    if code:
        assert done.finished() == {}
        assert "is a double (a double of ours)" in done.result.stdout.str() + done.result.stderr.str()
