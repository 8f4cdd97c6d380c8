"""Runs small suites on the simulated lab, each in processes of its own, and reads the record that they leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conformance import record
from conformance.record import ItemFinished

SUITE = """
import os, signal
import pytest
from conformance.driver import *
from conformance.errors import *
from conformance.machine import Machines
from conformance.model import *
requirement = pytest.mark.requirement
"""

CONFTEST = """
from conformance.driver import *
from conformance.errors import *
from conformance.lab import labs
from conformance.model import *
from drivers.simulated import SimulatedDriver
"""


@dataclass(frozen=True)
class Run:
    """A run that is over."""

    result: Any
    out: Path

    @property
    def code(self) -> int:
        return int(self.result.ret)

    @property
    def events(self) -> list[Any]:
        return list(record.read(self.out / "record"))

    def finished(self) -> dict[str, ItemFinished]:
        """The verdicts by the test's name; one each, or the test fails."""
        found: dict[str, ItemFinished] = {}
        for event in self.events:
            if isinstance(event, ItemFinished):
                name = event.item.rpartition("::")[2]
                assert name not in found, f"{name} finished twice"
                found[name] = event
        return found

    def verdicts(self) -> dict[str, str]:
        return {name.partition("[")[0]: str(event.verdict) for name, event in self.finished().items()}


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """`run(suite, *arguments, conftest="")` runs a test file on the target `simulated`."""
    monkeypatch.setenv("HVCONFORM_STATE", str(pytester.path / "state"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    runs = iter(range(100))

    def start(suite: str, *arguments: str, conftest: str = "", target: str = "simulated") -> Run:
        pytester.makeconftest(CONFTEST + conftest)
        pytester.makepyfile(test_suite=SUITE + suite)
        out = pytester.path / f"out{next(runs)}"
        result = pytester.runpytest_subprocess(
            "--lab=simulated", f"--target={target}", f"--out={out}", "-p", "no:cacheprovider", *arguments, timeout=120
        )
        return Run(result, out)

    return start
