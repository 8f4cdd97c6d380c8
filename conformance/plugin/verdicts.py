"""From what happened in an item's phases to one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from conformance.errors import DriverError, HostUnreachable, LabError, NotObserved, UntypedError
from conformance.lab.lab import Observers
from conformance.machine import Machines
from conformance.observers.host import Entry
from conformance.record import Verdict
from conformance.waiting import WaitTimeout


class LeftBehind(AssertionError):
    """A test left something on the hosts, or took something away that was not its own."""


class Hidden(AssertionError):
    """A test skipped itself."""


@dataclass(slots=True)
class Outcome:
    """What is known of the item that runs."""

    start: float
    errors: list[tuple[BaseException, str]] = field(default_factory=list)
    residue: list[str] = field(default_factory=list)
    refusal: str | None = None
    refusal_note: str = ""
    not_testable: str = ""
    sick: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    machines: list[Machines] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def verdict(self) -> Verdict:
        """The first error decides: what follows it is mostly its consequence."""
        if self.errors:
            return Verdict.LAB_ERROR if self.sick else blame(self.errors[0][0])
        if self.not_testable:
            return Verdict.NOT_TESTABLE_HERE
        return Verdict.PASS if self.refusal is None else Verdict.NOT_CLAIMED

    def message(self) -> str:
        """Why, in one line."""
        if not self.errors:
            return self.not_testable or self.refusal_note
        error = self.errors[0][0]
        # the first line says what; histories, hints and comparisons are in the detail
        text = next(iter(str(error).strip().splitlines()), "").removesuffix("; seen:")
        said = text if isinstance(error, LeftBehind | Hidden) else f"{type(error).__name__}: {text}"
        if self.sick:
            return f"the lab is sick: {'; '.join(self.sick)} (and: {said})"
        return f"{'; '.join(self.died)} ({said})" if self.died else said

    def detail(self) -> str:
        return "\n\n".join(text for _, text in self.errors)


def blame(error: BaseException) -> Verdict:
    """Whom an error speaks against: the driver if it or an observation failed, else the lab or the harness.

    A `TypeError` in a test's body is a bug of ours, and never the driver's.
    """
    return (
        Verdict.FAIL
        if isinstance(error, AssertionError | DriverError | UntypedError | NotObserved | pytest.fail.Exception)
        else Verdict.LAB_ERROR
    )


def sickness(error: BaseException, observers: Observers) -> Sequence[str]:
    """What is wrong with the lab, asked where an error might be its fault."""
    if not isinstance(error, NotObserved | HostUnreachable):
        return []
    try:
        return list(observers.health())
    except LabError as sick:
        return [str(sick)]


def revive(observers: Observers) -> Sequence[str]:
    """Start again what died on the hosts, so that the tests to come can run; a sentence each.

    A daemon that dies under a test is the hypervisor's failure, and the test's verdict.
    """
    try:
        return list(observers.revive())
    except (LabError, WaitTimeout):
        return []


def undeleted(problems: Sequence[str]) -> None:
    """Raise `LeftBehind` if a driver could not delete what it had made."""
    if problems:
        raise LeftBehind("the driver could not delete what it had made: " + "; ".join(problems))


def left_behind(appeared: Sequence[Entry], vanished: Sequence[Entry]) -> list[str]:
    """Residue, a line each."""
    return [f"{_entry(entry)}" for entry in appeared] + [f"gone: {_entry(entry)}" for entry in vanished]


def _entry(entry: Entry) -> str:
    return f"{entry.host}: {entry.kind} {entry.name}" + (f" ({entry.detail})" if entry.detail else "")
