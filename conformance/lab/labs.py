"""Finds kinds of labs and drivers by their entry points, and brings the nested labs of a run up and down."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from conformance import paths
from conformance.driver import Driver
from conformance.errors import LabError, LabFileError, MissingRequirement
from conformance.lab.inventory import LabInventory, Target, load
from conformance.lab.lab import LabKind, Say
from conformance.model import Evidence

LABS = "hvconform.labs"
DRIVERS = "hvconform.drivers"
DEFECTS = "hvconform.defects"

_SHOWN = 30
"""How many names a message lists."""


STANDING_IN = (Evidence.OWN_DOUBLE, Evidence.VENDOR_SIMULATOR)
"""Evidence of labs that may have requirements which they cannot show."""


def not_testable(lab: LabInventory, requirement: str) -> str:
    """Why this kind of lab cannot show a requirement whatever the driver does; empty where it can.

    Raises:
        LabError: The kind has such requirements and the lab claims to be the real thing.
    """
    listed = lab_kind(lab.kind).not_testable()
    if listed and lab.evidence not in STANDING_IN:
        raise LabError(
            f"lab {lab.name} is of the kind {lab.kind}, a double, and claims evidence {lab.evidence}",
            hint=f'evidence = "{Evidence.OWN_DOUBLE}"',
        )
    return next((why for pattern, why in listed.items() if fnmatchcase(requirement, pattern)), "")


def near(name: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" or "; known: ...", for a message about an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; known: {', '.join(names[:_SHOWN]) or 'none'}{more}"


@cache
def kind_names() -> tuple[str, ...]:
    """The kinds of labs that are installed."""
    return tuple(sorted(point.name for point in entry_points(group=LABS)))


def lab_kind(name: str) -> type[LabKind]:
    """The kind of lab with this name; raises `LabFileError` for an unknown one."""
    found = _load(LABS, name)
    if found is None:
        raise LabFileError(f"unknown kind of lab {name!r}{near(name, kind_names())}")
    return found  # type: ignore[no-any-return]


def driver_class(name: str) -> type[Driver]:
    """The driver with this name; raises `LabFileError` for an unknown one."""
    found = _load(DRIVERS, name)
    if found is None:
        known = [point.name for point in entry_points(group=DRIVERS)]
        raise LabFileError(f"unknown driver {name!r}{near(name, known)}", hint="install the package that brings it")
    return found  # type: ignore[no-any-return]


def checked_class(target: Target) -> type[Driver]:
    """The driver of a target, of which nothing has been contacted; raises `LabFileError` for an unknown option."""
    made = driver_class(target.driver)
    unknown = sorted(set(target.options) - made.option_names)
    if unknown:
        raise LabFileError(
            f"target {target.slug}: driver {target.driver} has no option {', '.join(unknown)}",
            hint=f"its options: {', '.join(sorted(made.option_names)) or 'none'}",
        )
    return made


def connect(lab: LabInventory, target: Target) -> Driver:
    """The driver of a target, with the target's seeded defect if it has one. Raises what `Driver.connect` does."""
    made = checked_class(target)
    lab_kind(lab.kind).enter(lab)
    driver = made.connect(lab, target)
    return _defective(driver, target.defect) if target.defect else driver


def _defective(driver: Driver, defect: str) -> Driver:
    apply = _load(DEFECTS, "apply")
    if apply is None:
        try:
            # by name and only here: the harness may not depend on the drivers that are shipped with it
            apply = import_module("drivers.defects").apply
        except (ImportError, AttributeError):
            raise LabError(f"the defect {defect!r} cannot be seeded: no drivers.defects is installed") from None
    return apply(driver, defect)  # type: ignore[no-any-return]


def _load(group: str, name: str) -> Any:
    for point in entry_points(group=group):
        if point.name == name:
            try:
                return point.load()
            except (ImportError, AttributeError) as error:
                raise MissingRequirement(
                    f"{group.removeprefix('hvconform.')} entry {name!r} ({point.value}) cannot be loaded: {error}",
                    hint="hvconform doctor",
                ) from error
    return None


def may_bring_up(kind: type[LabKind]) -> None:
    """Raise `MissingRequirement` where this process has not the rights that a nested lab needs."""
    if kind.needs_root and os.geteuid() != 0:
        raise MissingRequirement(
            f"the lab {kind.kind} needs root: it makes namespaces and bridges",
            hint=f"sudo -E {Path(sys.executable).with_name('hvconform')} ... (state stays in {paths.state_dir()})",
        )


class Pool:
    """The equivalent labs of one run, those that it brought up itself included.

    Args:
        names: Names of nested labs and paths of lab files, as given to ``--lab``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._ours: list[tuple[type[LabKind], int]] = []
        self.labs: list[LabInventory] = []
        self.ours: list[str] = []
        """The names of the labs that `open` brought up, which `close` takes down."""
        self.described: list[LabInventory] = []
        """Those labs that lab files describe: nobody has looked at them yet."""

    def open(self, count: int, say: Say) -> None:
        """Read the lab files, and bring nested labs up until there are `count` labs.

        Raises:
            LabError: A lab is unknown, does not come up, or the labs are not equivalent.
        """
        nested = [name for name in self._names if name in kind_names() and lab_kind(name).nested]
        for name in self._names:
            if name not in nested:
                self.described.append(self._file(name))
        self.labs += self.described
        cell = 0
        while nested and len(self.labs) < max(count, len(self._names)):
            self._up(lab_kind(nested[cell % len(nested)]), cell // len(nested), say)
            cell += 1
        self._check_equivalent()

    def _file(self, name: str) -> LabInventory:
        path = Path(name)
        if not path.exists() and path.suffix != ".toml" and "/" not in name:
            raise LabFileError(
                f"no lab {name!r}{near(name, kind_names())}", hint="give a nested lab's name or the path of a lab file"
            )
        return load(path)

    def _up(self, kind: type[LabKind], cell: int, say: Say) -> None:
        folder = paths.lab_dir(kind.kind, cell)
        may_bring_up(kind)
        was_up = kind.status(cell, folder).state == "up"
        if not was_up:
            # noted first: `down` also clears away a lab that came up by half
            self._ours.append((kind, cell))
        lab = kind.up(cell, folder, say)
        self.labs.append(lab)
        if not was_up:
            self.ours.append(lab.name)

    def _check_equivalent(self) -> None:
        slugs = [sorted(target.slug for target in lab.targets) for lab in self.labs]
        if any(other != slugs[0] for other in slugs):
            raise LabFileError("the labs given are not equivalent: their targets differ", hint="run them one by one")

    def close(self, say: Say) -> None:
        """Take down what `open` brought up."""
        while self._ours:
            kind, cell = self._ours.pop()
            kind.down(cell, paths.lab_dir(kind.kind, cell), say)
