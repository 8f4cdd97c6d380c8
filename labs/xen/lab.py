"""The nested Xen lab: up, down, status, and what this machine lacks for it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from conformance.errors import HarnessError, LabError
from conformance.lab.inventory import LabInventory, load
from conformance.lab.lab import LabKind, LabStatus, Observers, Say
from conformance.observers.shell import Shell
from conformance.paths import cache_dir
from conformance.waiting import WaitTimeout, now
from labs.nested import accel
from labs.nested.cell import alone, empty, require, write
from labs.xen import clock, describe, machine, requirements, saved
from labs.xen.layout import HOSTS, Cell
from labs.xen_hosts.observers import XenObservers


class XenLab(LabKind):
    """Two Xen hosts in QEMU, clones of a saved state, with the peers of every guest network on the first."""

    kind: ClassVar[str] = "xen"
    nested: ClassVar[bool] = True

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        return XenObservers(inventory)

    @classmethod
    def up(cls, cell: int, state_dir: Path, say: Say) -> LabInventory:
        require(cls.missing())
        here = Cell(cell, state_dir.resolve())
        with alone(here.dir):
            if here.inventory_file.exists():
                wrong = _wrong(here)
                if not wrong:
                    say(f"{here.name} is up already: {here.inventory_file}")
                    return load(here.inventory_file)
                say(f"{here.name} is broken ({wrong}): building it again")
            _clear(here)
            try:
                return _build(here, say)
            except WaitTimeout as error:
                _clear(here)
                raise LabError(f"{here.name} does not come up: {error}", hint="hvconform lab rebuild xen") from error
            except LabError:
                _clear(here)
                raise

    @classmethod
    def down(cls, cell: int, state_dir: Path, say: Say) -> None:
        here = Cell(cell, state_dir.resolve())
        if not here.dir.exists():
            ended = machine.end(here.mark)  # the folder may have been removed by hand under a running lab
            say(f"{here.name}: ended {', '.join(ended)}" if ended else f"{here.name} is not there")
            return
        with alone(here.dir):
            ended = _clear(here)
            say(f"{here.name}: ended {', '.join(ended)}" if ended else f"{here.name}: nothing was running")
            say(f"{here.name}: removed {here.dir}")

    @classmethod
    def forget(cls, say: Say) -> None:
        folder = cache_dir() / "xen"
        shutil.rmtree(folder, ignore_errors=True)
        say(f"removed {folder}")

    @classmethod
    def status(cls, cell: int, state_dir: Path) -> LabStatus:
        here = Cell(cell, state_dir.resolve())
        if not here.inventory_file.exists():
            left = sorted(machine.find(here.mark))
            if left:
                return LabStatus(here.name, "broken", f"half built: {', '.join(left)}")
            return LabStatus(here.name, "down")
        wrong = _wrong(here)
        if wrong:
            return LabStatus(here.name, "broken", wrong)
        return LabStatus(here.name, "up", f"{here.inventory_file}; enter with {_enter(here)}")

    @classmethod
    def missing(cls) -> Sequence[tuple[str, str]]:
        return requirements.missing()


def _build(here: Cell, say: Say) -> LabInventory:
    start = now()
    cache = cache_dir()
    made = saved.parts(cache, lambda kernel: accel.probe(cache, kernel), say)
    say(f"{here.name}: {made.hypervisor.note}; {made.accelerator.note}")
    kept = saved.prepare(here, cache / "xen", made, say)
    begun = now()
    ports = saved.clone(here, kept, made)
    inventory = describe.inventory(here, kept, made, ports)
    observers = XenObservers(inventory)
    try:
        with ThreadPoolExecutor(len(HOSTS)) as pool:
            list(pool.map(lambda host: _wake(host, observers.host(host).shell), HOSTS))
        wrong = "; ".join(observers.health())
    finally:
        observers.close()
    if wrong:
        raise LabError(f"{here.name} came up unfit: {wrong}", hint="hvconform lab rebuild xen")
    write(inventory, here.inventory_file)
    say(
        f"{here.name} is up after {now() - start:.1f} s, {now() - begun:.1f} s of them from the saved state:"
        f" {here.inventory_file}"
    )
    return load(here.inventory_file)


def _wake(host: str, shell: Shell) -> None:
    saved.reached(host, shell)
    clock.set_right(host, shell)


def _wrong(here: Cell) -> str:
    """Why a lab that says it is up is not fit; empty when it is."""
    try:
        inventory = load(here.inventory_file)
        gone = sorted(set(HOSTS) - set(machine.find(here.mark)))
        if gone:
            return f"{', '.join(gone)} gone"
        observers = XenObservers(inventory)
        try:
            return "; ".join(observers.health())
        finally:
            observers.close()
    except HarnessError as error:
        return str(error)


def _enter(here: Cell) -> str:
    shells = {host.name: host.shell for host in load(here.inventory_file).hosts}
    first = next(iter(shells.values()))
    key = getattr(first, "key_file", "")
    ports = ", ".join(f"{name} {getattr(shell, 'port', 0)}" for name, shell in shells.items())
    return f"ssh -i {key} -p PORT root@127.0.0.1: {ports}"


def _clear(here: Cell) -> list[str]:
    ended = machine.end(here.mark)
    empty(here.dir)
    return ended
