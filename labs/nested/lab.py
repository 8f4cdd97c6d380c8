"""Up, down and status of any nested lab: its cells are taken over, built, cleared away in one way."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from conformance.errors import HarnessError
from conformance.lab.inventory import LabInventory, load
from conformance.lab.lab import LabKind, LabStatus, Say
from labs.nested.cell import Cell, alone, empty, require

C = TypeVar("C", bound=Cell)


class NestedLab(LabKind, Generic[C]):
    """A kind of lab that is made on this machine; each says what its cell is, how it is built and what ends it."""

    nested: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def cell(cls, number: int, folder: Path) -> C:
        """What a cell is called."""

    @classmethod
    @abstractmethod
    def build(cls, here: C, say: Say) -> LabInventory:
        """Build a cell in its empty folder; the lab file is written last."""

    @classmethod
    @abstractmethod
    def living(cls, here: C) -> Sequence[str]:
        """The names of those of its parts that live, found without its folder."""

    @classmethod
    @abstractmethod
    def end(cls, here: C) -> Sequence[str]:
        """End all that lives of it, found without its folder; returns the names."""

    @classmethod
    @abstractmethod
    def lost(cls, here: C, inventory: LabInventory) -> str:
        """What is gone of a cell that says it is up, or not what its lab file says; empty when all is there."""

    @classmethod
    @abstractmethod
    def way_in(cls, here: C) -> str:
        """How to enter its hosts, for the person who wants to look around."""

    @classmethod
    def up(cls, cell: int, state_dir: Path, say: Say) -> LabInventory:
        require(cls.missing())
        here = cls.cell(cell, state_dir.resolve())
        with alone(here.dir):
            if here.inventory_file.exists():
                wrong = cls._wrong(here)
                if not wrong:
                    say(f"{here.name} is up already: {here.inventory_file}")
                    return load(here.inventory_file)
                say(f"{here.name} is broken ({wrong}): building it again")
            cls.clear(here)
            return cls.build(here, say)

    @classmethod
    def down(cls, cell: int, state_dir: Path, say: Say) -> None:
        here = cls.cell(cell, state_dir.resolve())
        if not here.dir.exists():
            ended = cls.end(here)  # the folder may have been removed by hand under a running lab
            say(f"{here.name}: ended {', '.join(ended)}" if ended else f"{here.name} is not there")
            return
        with alone(here.dir):
            ended = cls.clear(here)
            say(f"{here.name}: ended {', '.join(ended)}" if ended else f"{here.name}: nothing was running")
            say(f"{here.name}: removed {here.dir}")

    @classmethod
    def status(cls, cell: int, state_dir: Path) -> LabStatus:
        here = cls.cell(cell, state_dir.resolve())
        if not here.inventory_file.exists():
            left = sorted(cls.living(here))
            if left:
                return LabStatus(here.name, "broken", f"half built: {', '.join(left)}")
            return LabStatus(here.name, "down")
        wrong = cls._wrong(here)
        if wrong:
            return LabStatus(here.name, "broken", wrong)
        return LabStatus(here.name, "up", f"{here.inventory_file}; enter with {cls.way_in(here)}")

    @classmethod
    def clear(cls, here: C) -> Sequence[str]:
        """End all that lives of a cell and empty its folder; returns the names of what was ended."""
        ended = cls.end(here)
        empty(here.dir)
        return ended

    @classmethod
    def _wrong(cls, here: C) -> str:
        """Why a lab that says it is up is not fit; empty when it is."""
        try:
            inventory = load(here.inventory_file)
            if lost := cls.lost(here, inventory):
                return lost
            observers = cls.observe(inventory)
            try:
                return "; ".join(observers.health())
            finally:
                observers.close()
        except HarnessError as error:
            return str(error)
