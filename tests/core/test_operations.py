"""Operations: waiting, deadlines, aborting and progress of what a driver's thread carries out."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from conformance.driver import FACETS, Completed, Running, disagreements
from conformance.errors import HypervisorFailure, Timeout, Unsupported
from conformance.lab import labs
from conformance.model import Capability, Progress
from labs.simulated import SimulatedLab


def test_the_result_and_the_error_reach_whoever_waits() -> None:
    assert Running(lambda: "id", operation="create").wait(5) == "id"

    def fail() -> None:
        raise HypervisorFailure("no space", operation="create")

    failing = Running(fail, operation="create")
    with pytest.raises(HypervisorFailure, match="no space"):
        failing.wait(5)
    assert failing.progress() == Progress(0.0, "failed")


def test_a_deadline_says_phase_and_state_and_leaves_the_operation_alone() -> None:
    go = threading.Event()
    running = Running(go.wait, operation="migrate", vm="v1", progress=lambda: Progress(0.25, "copying"))
    with pytest.raises(Timeout) as timeout:
        running.wait(0.01)
    assert (timeout.value.phase, timeout.value.last_state) == ("copying", "25%")
    assert (timeout.value.operation, timeout.value.vm) == ("migrate", "v1")
    assert not running.done()
    go.set()
    assert running.wait(5) is True
    assert running.progress() == Progress(1.0, "done")


def test_a_timeout_of_the_work_itself_is_not_taken_for_the_deadline() -> None:
    def fail() -> None:
        raise TimeoutError("the socket's")

    with pytest.raises(TimeoutError, match="the socket's"):
        Running(fail, operation="get").wait(5)


def test_progress_never_goes_back() -> None:
    go, fractions = threading.Event(), iter([0.2, 0.6, 0.4])
    running = Running(go.wait, operation="migrate", progress=lambda: Progress(next(fractions), "copying"))
    assert [running.progress().fraction for _ in range(3)] == [0.2, 0.6, 0.6]
    go.set()
    running.wait(5)


def test_abort_is_refused_where_there_is_none() -> None:
    go, aborted = threading.Event(), threading.Event()
    with_abort = Running(go.wait, operation="migrate", abort=aborted.set)
    with_abort.abort()
    assert aborted.is_set()
    without = Running(go.wait, operation="resize")
    with pytest.raises(Unsupported):
        without.abort()
    go.set()
    with_abort.wait(5), without.wait(5)


def test_a_completed_operation_is_over() -> None:
    over = Completed(3)
    over.abort()
    assert (over.wait(), over.done(), over.progress().fraction) == (3, True, 1.0)


def test_declared_capabilities_and_facets_must_agree(tmp_path: Path) -> None:
    lab = SimulatedLab.up(0, tmp_path, lambda _: None)
    driver = labs.connect(lab, lab.targets[0])
    assert disagreements(driver) == []

    class Boastful:
        name = "boastful"

        def capabilities(self) -> dict[Capability, None]:
            return {Capability.PAUSE: None, Capability.EVENTS: None}

    assert disagreements(Boastful()) == ["boastful declares pause but does not implement the facet Pause"]  # type: ignore[arg-type]
    assert Capability.PAUSE in FACETS
