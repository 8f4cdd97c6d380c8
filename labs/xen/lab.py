"""The nested Xen lab: how it is built, what ends it, and what of it may be lost."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from conformance.errors import LabError
from conformance.lab.inventory import LabInventory, load
from conformance.lab.lab import Observers, Say
from conformance.paths import cache_dir
from conformance.shells.shell import Shell
from conformance.waiting import WaitTimeout, now
from labs.nested import accel
from labs.nested.cell import write
from labs.nested.lab import NestedLab
from labs.xen import clock, describe, machine, requirements, saved
from labs.xen.layout import HOSTS, Cell
from labs.xen_hosts.observers import XenObservers


class XenLab(NestedLab[Cell]):
    """Two Xen hosts in QEMU, clones of a saved state, with the peers of every guest network on the first."""

    kind: ClassVar[str] = "xen"

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        return XenObservers(inventory)

    @classmethod
    def missing(cls) -> Sequence[tuple[str, str]]:
        return requirements.missing()

    @classmethod
    def forget(cls, say: Say) -> None:
        folder = cache_dir() / "xen"
        shutil.rmtree(folder, ignore_errors=True)
        say(f"removed {folder}")

    @classmethod
    def cell(cls, number: int, folder: Path) -> Cell:
        return Cell(number, folder)

    @classmethod
    def build(cls, here: Cell, say: Say) -> LabInventory:
        try:
            return _build(here, say)
        except WaitTimeout as error:
            cls.clear(here)
            raise LabError(f"{here.name} does not come up: {error}", hint="hvconform lab rebuild xen") from error
        except LabError:
            cls.clear(here)
            raise

    @classmethod
    def living(cls, here: Cell) -> Sequence[str]:
        return list(machine.find(here.mark))

    @classmethod
    def end(cls, here: Cell) -> Sequence[str]:
        return machine.end(here.mark)

    @classmethod
    def lost(cls, here: Cell, inventory: LabInventory) -> str:  # noqa: ARG003 - its ports are in no other place
        gone = sorted(set(HOSTS) - set(machine.find(here.mark)))
        return f"{', '.join(gone)} gone" if gone else ""

    @classmethod
    def way_in(cls, here: Cell) -> str:
        shells = {host.name: host.shell for host in load(here.inventory_file).hosts}
        first = next(iter(shells.values()))
        key = getattr(first, "key_file", "")
        ports = ", ".join(f"{name} {getattr(shell, 'port', 0)}" for name, shell in shells.items())
        return f"ssh -i {key} -p PORT root@127.0.0.1: {ports}"


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
