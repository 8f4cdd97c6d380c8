"""Sweep: reclaims what killed runs left on a lab, by their ledgers, and touches nothing that is in no ledger."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from conformance import paths
from conformance.driver import Driver
from conformance.errors import DriverError, HarnessError, LabError
from conformance.lab import labs
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers, Say
from conformance.lab.ledger import Promise, unsettled


@dataclass(slots=True)
class Swept:
    """What a sweep did: names reclaimed, ledgers left to living runs, and what could not be removed, a line each."""

    reclaimed: list[str] = field(default_factory=list)
    living: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def ledgers(lab: str) -> Sequence[Path]:
    """The ledger files of a lab, by its inventory's name."""
    return sorted((paths.state_dir() / "ledgers" / lab).glob("*.jsonl"))


def known_labs() -> Sequence[str]:
    """The names of the labs that have ledgers."""
    return sorted(folder.name for folder in (paths.state_dir() / "ledgers").glob("*") if any(folder.glob("*.jsonl")))


def sweep(lab: LabInventory, say: Say, *, run: str = "") -> Swept:
    """Reclaim every unsettled promise of dead processes on a lab that is up.

    Args:
        lab: The lab.
        say: Gets a line for each name.
        run: Only the ledgers of this run; empty means all.
    """
    done = Swept()
    with _dead(ledgers(lab.name), done) as files:
        files = [path for path in files if path.name.startswith(run)]
        if not files:
            return done
        promises = [promise for path in files for promise in unsettled(path)]
        kept = _reclaim(lab, promises, say, done) if promises else set()
        for path in files:
            if not kept & {promise.name for promise in unsettled(path)}:
                path.unlink()
    return done


def forget(lab: str) -> Swept:
    """Drop the ledgers of dead processes on a nested lab that is down: nothing of it can be left."""
    done = Swept()
    with _dead(ledgers(lab), done) as files:
        for path in files:
            path.unlink()
    return done


@contextmanager
def _dead(files: Iterable[Path], done: Swept) -> Iterator[list[Path]]:
    """Those ledgers whose process is gone, locked for as long as this lasts."""
    held = []
    dead: list[Path] = []
    try:
        for path in files:
            file = path.open("a")
            held.append(file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                done.living.append(path)
            else:
                dead.append(path)
        yield dead
    finally:
        for file in held:
            file.close()


def _reclaim(lab: LabInventory, promises: Sequence[Promise], say: Say, done: Swept) -> set[str]:
    """Reclaim and verify; returns the names that are still there."""
    kept: set[str] = set()
    observers = labs.lab_kind(lab.kind).observe(lab)
    drivers: dict[str, Driver | HarnessError] = {}
    try:
        for promise in promises:
            if promise.target not in drivers:
                drivers[promise.target] = _connect(lab, promise.target)
            problem = _one(promise, drivers[promise.target]) or _still_there(promise.name, lab, observers)
            if problem:
                done.problems.append(f"{promise.name}: {problem}")
                kept.add(promise.name)
            else:
                done.reclaimed.append(promise.name)
                say(f"{lab.name}: {promise.name} is gone")
    finally:
        for driver in drivers.values():
            if isinstance(driver, Driver):
                driver.close()
        observers.close()
    return kept


def _connect(lab: LabInventory, slug: str) -> Driver | HarnessError:
    try:
        return labs.connect(lab, lab.target(slug))
    except HarnessError as error:
        return error


def _one(promise: Promise, driver: Driver | HarnessError) -> str:
    if isinstance(driver, HarnessError):
        return f"target {promise.target}: {driver}"
    try:
        driver.reclaim(promise.name)
    except DriverError as error:
        return str(error)
    return ""


def _still_there(name: str, lab: LabInventory, observers: Observers) -> str:
    """What on the hosts still carries the name; the driver's word is not taken for it."""
    whole = re.compile(re.escape(name) + r"(?!\d)")
    try:
        found = [
            f"{entry.host}: {entry.kind} {entry.name}"
            for host in lab.hosts
            for entry in sorted(observers.host(host.name).inventory())
            if whole.search(entry.name) or whole.search(entry.detail)
        ]
    except LabError as error:
        return f"cannot be verified: {error}"
    return f"still there: {'; '.join(found)}" if found else ""
