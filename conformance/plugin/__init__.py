"""The pytest plugin: inert without ``--lab``; with it, every test that names a requirement is run on a lab's targets.

This module only wires the parts together: options, plan, controller, worker, runner, fixtures, scheduling.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance import contract as contracts
from conformance.errors import LAB_BROKEN, HarnessError
from conformance.lab.inventory import LabInventory
from conformance.plugin import fixtures, options, plan
from conformance.plugin.controller import Controller, chosen_targets, explained
from conformance.plugin.runner import NAME, Runner
from conformance.plugin.worker import Worker, record_folder
from conformance.record import Recorder

MARKS = (
    "requirement(id): the requirement of the contract that the test checks",
    "capability(*capabilities): what the test needs besides the requirement's own capabilities",
    "steady: run the test on a VM of every provenance",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if config.getoption("--lab"):
        config.pluginmanager.register(Conformance(config), "hvconform-run")


class Conformance:
    """A run on a lab, in any of its processes."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._contract = contracts.load()
        self._settings = options.read(config, self._contract)
        self._controller: Controller | None = None
        self._worker: Worker | None = None
        self._targets: list[str] = []
        if not hasattr(config, "workerinput"):
            self._controller = Controller(config, self._settings, self._contract)
            config.pluginmanager.register(self._controller, "hvconform-controller")
            # the default, four crashes a worker, is too few where each crash costs one item and nothing else
            if getattr(config.option, "maxworkerrestart", None) is None and hasattr(config.option, "maxworkerrestart"):
                config.option.maxworkerrestart = "20"

    # hook order: before xdist makes its workers, which get the labs from us
    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        if self._controller is not None:
            try:
                self._controller.open()
            except HarnessError as error:
                self._controller.abandon()
                pytest.exit(explained(error), returncode=LAB_BROKEN)
            except BaseException:
                self._controller.abandon()
                raise
            if self._distributed:
                return
            self._begin("main", self._controller.run, self._controller.recorder, self._controller.pool)
        else:
            given: dict[str, Any] = self._config.workerinput["hvconform"]  # type: ignore[attr-defined]
            name: str = self._config.workerinput["workerid"]  # type: ignore[attr-defined]
            pool = [LabInventory.model_validate_json(text) for text in given["labs"]]
            self._out = Path(given["out"])
            self._begin(name, given["run"], Recorder(record_folder(self._out), name), pool)

    @property
    def _distributed(self) -> bool:
        return str(self._config.getoption("dist", "no")) != "no"

    def _begin(self, name: str, run: str, recorder: Recorder, pool: Sequence[LabInventory]) -> None:
        self._targets = chosen_targets(self._settings, pool[0])
        self._worker = Worker(name, run, recorder, pool, self._settings.lease_url)
        runner = Runner(self._worker, self._contract)
        self._config.pluginmanager.register(runner, NAME)
        self._config.pluginmanager.register(fixtures, "hvconform-fixtures")

    # collection

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        asked = self._settings.provenances
        names = [name for name in self._contract.provenances if not asked or name in asked]
        plan.parametrize(metafunc, self._contract, self._targets, names)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left = plan.arrange(items, self._contract, self._settings, self._targets)
        if left:
            config.hook.pytest_deselected(items=left)

    # before xdist tells the controller that the collection is over
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._worker is None:
            return
        if self._controller is None:
            plan.write(record_folder(self._out), self._worker.name, session.items)
        elif not self._config.option.collectonly:
            self._controller.planned(item.stash[plan.CELL] for item in session.items if plan.CELL in item.stash)

    # the end

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        with _uninterrupted():
            try:
                yield
            finally:  # also when an interrupted item's fixtures fail as they end: there are reports to write
                if self._worker is not None:
                    self._worker.close()
                if self._controller is not None:
                    session.exitstatus = self._controller.finish(int(exitstatus))
                elif self._worker is not None:
                    self._worker.recorder.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A run that is ending already ends: an interrupt now would only keep it from cleaning up. Killing still works."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
