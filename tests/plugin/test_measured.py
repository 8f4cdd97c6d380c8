"""A figure that a test takes is in the record and the Allure report, kept or not; beyond its bound the test fails."""

from __future__ import annotations

import json
from collections.abc import Callable

from conformance.record import Figure, Measured
from tests.plugin.conftest import Run

pytest_plugins = ["pytester"]

FIGURES = """
@requirement("mig.downtime-bound")
def test_kept(measured):
    measured("longest gap", 708.2, "ms", at_most=2000)


@requirement("mig.tcp-survives")
def test_unbounded(measured):
    measured("longest gap", 90000.0, "ms")


@requirement("mig.wall-clock")
def test_beyond(measured):
    measured("clock error", 3.4, "s", at_most=2)


@requirement("time.monotonic")
def test_at_the_bound(measured):
    measured("clock error", 2.0, "s", at_most=2)
"""


def test_figures_are_recorded_and_bounds_are_held(run: Callable[..., Run]) -> None:
    done = run(FIGURES, "--alluredir", "allure")

    assert done.verdicts() == {
        "test_kept": "pass",
        "test_unbounded": "pass",
        "test_beyond": "fail",
        "test_at_the_bound": "pass",
    }
    (failed,) = [event for event in done.finished().values() if event.verdict == "fail"]
    assert failed.message == "AssertionError: clock error 3.4 s, at most 2 s allowed"
    figures = {event.item.rpartition("::")[2]: event.figure for event in done.events if isinstance(event, Measured)}
    assert figures == {
        "test_kept[simulated]": Figure(what="longest gap", value=708.2, unit="ms", at_most=2000),
        "test_unbounded[simulated]": Figure(what="longest gap", value=90000.0, unit="ms"),
        "test_beyond[simulated]": Figure(what="clock error", value=3.4, unit="s", at_most=2),
        "test_at_the_bound[simulated]": Figure(what="clock error", value=2.0, unit="s", at_most=2),
    }
    results = [json.loads(path.read_text()) for path in (done.out.parent / "allure").glob("*-result.json")]
    shown = {each["name"]: each["parameters"] for each in results}
    (kept,) = [parameters for parameters in shown.values() if {"708 ms"} & {p["value"].strip("'") for p in parameters}]
    # no part of the test's identity: its history goes on when the figure changes
    assert [p["name"] for p in kept if p.get("excluded")] == ["longest gap"]
