"""Runs items: gates them by capability, watches for residue, gathers evidence on failure and records the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from conformance import asking
from conformance.contract import Contract
from conformance.errors import LAB_BROKEN, HarnessError, LabError
from conformance.lab import labs
from conformance.machine import Machines
from conformance.observers.host import Inventory
from conformance.plugin import evidence, labels
from conformance.plugin.plan import CELL, NEEDS, Cell
from conformance.plugin.verdicts import Hidden, LeftBehind, Outcome, revive, sickness, undeleted
from conformance.plugin.worker import Worker
from conformance.record import ItemFinished, ItemStarted, bounded

NAME = "hvconform-runner"
"""What the `Runner` is registered as with pytest."""

OUTCOME = pytest.StashKey[Outcome]()


@dataclass(slots=True)
class Held:
    """Machines that several steady tests look at, and the hosts as they were before."""

    group: str
    machines: Machines
    before: Inventory
    made: Any = None
    error: BaseException | None = None


class Runner:
    """A pytest plugin of one process that runs items."""

    def __init__(self, worker: Worker, contract: Contract) -> None:
        self.worker = worker
        self.contract = contract
        self._held: Held | None = None
        self._before: Inventory = frozenset()

    def is_ours(self, item: pytest.Item) -> bool:
        return CELL in item.stash

    # the phases of an item

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if not self.is_ours(item):
            return (yield)
        item.stash[OUTCOME] = outcome = Outcome(time.perf_counter())
        self.worker.begin(item.nodeid)
        self._write(ItemStarted(item=item.nodeid, worker=self.worker.name))
        result = yield
        if not outcome.interrupted:
            self._finish(item, outcome)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        if not self.is_ours(item):
            return (yield)
        labels.apply(item, self.contract)
        with _no_hiding():
            self._gate(item)
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        if not self.is_ours(item):
            return (yield)
        with _no_hiding():
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
        try:
            return (yield)
        finally:
            held = self._held
            # a VM that a check failed on may be dirty: the next check gets another one
            if held is not None and (held.group != _group(nextitem) or (_failed(item) and held.error is None)):
                self._let_go(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        outcome = item.stash.get(OUTCOME, None)
        if outcome is None or call.excinfo is None:
            return report
        error = _first(call.excinfo.value)
        if isinstance(error, KeyboardInterrupt | pytest.exit.Exception):
            outcome.interrupted = True
            return report
        text = self.worker.mask(f"{call.when}:\n{report.longreprtext}")
        outcome.errors.append((error, bounded(text)))
        if len(outcome.errors) == 1:
            self._explain(item, outcome, error)
        return report

    # gating

    def _gate(self, item: pytest.Item) -> None:
        """Leave out what this kind of lab cannot show, and put a refusal check in the place of a test whose capability
        the target does not declare."""
        target = item.stash[CELL].target
        if why := labs.not_testable(self.worker.lab, item.stash[CELL].requirement):
            item.stash[OUTCOME].not_testable = why
            item.setup = item.runtest = lambda: None  # type: ignore[method-assign]
            return
        opened = self.worker.opened(target)
        missing = [need for need in item.stash[NEEDS] if need not in opened.capabilities]
        if not missing:
            return

        def refuse() -> None:
            for capability in missing:
                if capability not in opened.refusals:
                    machines = opened.machines()
                    self.involve(item, machines)
                    try:
                        with self.watched(item):
                            refusals = asking.check([capability], opened.driver, machines)
                            opened.refusals[capability] = refusals[capability]
                    except (AssertionError, HarnessError) as error:
                        opened.refusals[capability] = error
                known = opened.refusals[capability]
                if isinstance(known, BaseException):
                    raise known
                said.append(f"{capability}: {known}")
            item.stash[OUTCOME].refusal = "\n".join(said)
            item.stash[OUTCOME].refusal_note = f"{missing[0]} is not declared"

        said: list[str] = []
        # no fixture is set up: it might call what the target does not have
        item.setup = lambda: None  # type: ignore[method-assign]
        item.runtest = refuse  # type: ignore[method-assign]

    # residue

    @contextmanager
    def watched(self, item: pytest.Item) -> Iterator[None]:
        """Compare the hosts before and after the body; what differs is residue, is cleaned away and fails the item."""
        self._before = self.worker.last_look()
        outcome = item.stash[OUTCOME]
        outcome.marks = outcome.marks or self.worker.log_marks()
        yield
        self._compare(item, self._before, outcome.machines)

    def _compare(self, item: pytest.Item, before: Inventory, made: list[Machines]) -> None:
        opened = self.worker.opened(item.stash[CELL].target)
        lines = opened.clear(before, list(dict.fromkeys(name for machines in made for name in machines.named)))
        if not lines:
            return
        item.stash[OUTCOME].residue += lines
        raise LeftBehind(f"left behind: {'; '.join(lines)}")

    # steady VMs

    def steady(self, item: pytest.Item, target: str, provenance: str, build: Callable[[Machines], Any]) -> Any:
        """What `build` made for this group of items; its error, if it failed, for each of them."""
        group = f"{target}/{provenance}"
        if self._held is None:
            self._held = Held(group, self.worker.opened(target).machines(), self.worker.last_look())
            try:
                self._held.made = build(self._held.machines)
            except Exception as error:  # noqa: BLE001 - every test of the group gets it
                self._held.error = error
            # the steady VM is no residue of the test that happened to come first
            self._before = self.worker.look()
        self.involve(item, self._held.machines)
        if self._held.error is not None:
            raise self._held.error
        return self._held.made

    def _let_go(self, item: pytest.Item) -> None:
        held, self._held = self._held, None
        assert held is not None
        problems = held.machines.dispose()
        self._compare(item, held.before, [held.machines])
        undeleted(problems)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """An interrupted run has no teardown of the item that lets go of the steady VM. Fixtures are torn down next."""
        held, self._held = self._held, None
        if held is not None:
            held.machines.dispose()  # what could not be deleted is still in the ledger, for the sweep
            self._before = held.before

    def involve(self, item: pytest.Item, machines: Machines) -> None:
        """Remember whose consoles explain a failure of this item."""
        item.stash[OUTCOME].machines.append(machines)

    # the verdict

    def _explain(self, item: pytest.Item, outcome: Outcome, error: BaseException) -> None:
        try:
            observers = self.worker.observers
        except LabError:
            return  # it is the error
        # whatever the error is: left dead, it would fail the next test, which has no part in it
        outcome.died = list(revive(observers))
        outcome.sick = list(sickness(error, observers))
        evidence.attach(self.worker, item, outcome)

    def _finish(self, item: pytest.Item, outcome: Outcome) -> None:
        cell: Cell = item.stash[CELL]
        mask = self.worker.mask
        self._write(
            ItemFinished(
                item=cell.item,
                requirement=cell.requirement,
                target=cell.target,
                provenance=cell.provenance,
                verdict=outcome.verdict(),
                seconds=time.perf_counter() - outcome.start,
                message=bounded(mask(outcome.message()), 2000),
                detail=bounded(mask(outcome.detail())),
                residue=[mask(line) for line in outcome.residue],
                refusal=mask(outcome.refusal or ""),
                worker=self.worker.name,
            )
        )
        self.worker.begin("")

    def _write(self, event: ItemStarted | ItemFinished) -> None:
        """Write to the record; without one, there is no point in any further test."""
        try:
            self.worker.recorder.write(event)
        except LabError as error:
            pytest.exit(str(error), returncode=LAB_BROKEN)


def _failed(item: pytest.Item) -> bool:
    return OUTCOME in item.stash and bool(item.stash[OUTCOME].errors)


def _first(error: BaseException) -> BaseException:
    """The first of several errors: pytest groups what fixtures raise while they are torn down, the latest first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[-1]
    return error


def _group(item: pytest.Item | None) -> str:
    return item.stash[CELL].group if item is not None and CELL in item.stash else ""


@contextmanager
def _no_hiding() -> Iterator[None]:
    try:
        yield
    except (pytest.skip.Exception, pytest.xfail.Exception) as hiding:
        raise Hidden(
            f"the test skipped itself or expected to fail ({hiding}): a skip is a claim that nobody checks"
        ) from None
