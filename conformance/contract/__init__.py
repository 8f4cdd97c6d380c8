"""The contract: what a hypervisor driver must do, as data.

The requirements are rows of the TOML files next to this module, one file an area; `load` reads and checks them:

    contract = load()
    contract.get("reboot.exactly-once").statement

Nothing here knows a driver or a test. Which test implements which requirement is found by `conformance.contract.check`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import TypeVar

from conformance.errors import LabError
from conformance.model import Capability

_Choice = TypeVar("_Choice", bound=StrEnum)


class Level(StrEnum):
    """How binding a requirement is."""

    MUST = "must"  # no driver may opt out
    CONDITIONAL = "conditional"  # binding once its capability is declared; undeclared, it must be cleanly refused
    SHOULD = "should"  # graded and published, never gates


class Observer(StrEnum):
    """Who has to see what a requirement promises. `DRIVER` alone is a claim, enough only for errors and refusals."""

    GUEST = "guest"
    HOST = "host"
    WIRE = "wire"
    DRIVER = "driver"


class ContractError(LabError):
    """The contract's data are malformed; the message names the file and the row."""


class UnknownRequirement(LabError):
    """No requirement has this id.

    Args:
        id: The id asked for.
        known: The ids there are, of which the nearest are suggested.
    """

    def __init__(self, id: str, known: Iterable[str]) -> None:
        self.id = id
        near = difflib.get_close_matches(id, list(known), n=3, cutoff=0.7)
        guess = f"; did you mean {' or '.join(near)}?" if near else ""
        super().__init__(f"unknown requirement {id!r}{guess}", hint="hvconform contract list")


@dataclass(frozen=True, slots=True)
class Area:
    """A part of the contract, such as ``"migration"``."""

    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """A way in which a VM comes to its steady state. `needs` is the capability it takes, if any."""

    name: str
    statement: str
    needs: Capability | None


@dataclass(frozen=True, slots=True)
class Requirement:
    """One promise of the contract.

    Attributes:
        id: Such as ``"reboot.exactly-once"``; never used again for another promise.
        level: How binding it is.
        area: Name of its area.
        capability: What makes a conditional requirement binding; None for a `must`.
        also_needs: Further capabilities without which its situation cannot come up, such as volumes for a detach.
        statement: The promise, in one sentence.
        observers: Who has to see it.
        since: The version of the contract that brought it.
        tier: 1 for those to be tested first, else 2.
        steady: It is part of what is checked on a running VM of every provenance.
        rationale: Why it is worth a requirement.
        defects: Known defects, most of them shipped by real drivers, that it must catch.
    """

    id: str
    level: Level
    area: str
    capability: Capability | None
    also_needs: tuple[Capability, ...]
    statement: str
    observers: tuple[Observer, ...]
    since: str
    tier: int
    steady: bool
    rationale: str
    defects: tuple[str, ...]

    @property
    def needs(self) -> tuple[Capability, ...]:
        """Every capability that a target must declare for this requirement to be exercised on it."""
        return self.also_needs if self.capability is None else (self.capability, *self.also_needs)


@dataclass(frozen=True, slots=True)
class Contract:
    """A version of the contract. The mappings keep reading order."""

    version: str
    requirements: Mapping[str, Requirement]
    areas: Mapping[str, Area]
    provenances: Mapping[str, Provenance]

    def get(self, id: str) -> Requirement:
        """The requirement with this id; raises `UnknownRequirement`, which suggests the nearest ids."""
        try:
            return self.requirements[id]
        except KeyError:
            raise UnknownRequirement(id, self.requirements) from None

    def in_area(self, area: str) -> tuple[Requirement, ...]:
        """The requirements of an area, in reading order."""
        return tuple(row for row in self.requirements.values() if row.area == area)

    @property
    def steady(self) -> tuple[Requirement, ...]:
        """The requirements that are checked on a running VM of every provenance."""
        return tuple(row for row in self.requirements.values() if row.steady)


@cache
def load() -> Contract:
    """The contract that comes with this package; raises `ContractError`."""
    return read(resources.files(__name__))


def read(folder: Traversable) -> Contract:
    """The contract kept in a folder: ``contract.toml`` and ``requirements/<area>.toml``; raises `ContractError`."""
    head = _toml(folder / "contract.toml")
    where = "contract.toml"
    areas = {
        name: Area(name, _text(row, "title", f"{where}, area {name!r}")) for name, row in _named(head, "area", where)
    }
    provenances = {
        name: Provenance(
            name,
            _text(row, "statement", f"{where}, provenance {name!r}"),
            _capability(row.get("needs", ""), f"{where}, provenance {name!r}"),
        )
        for name, row in _named(head, "provenance", where)
    }
    files = {file.name.removesuffix(".toml") for file in (folder / "requirements").iterdir() if file.is_file()}
    if odd := files ^ set(areas):
        raise ContractError(f"requirements/ and the areas of {where} disagree about: {', '.join(sorted(odd))}")
    requirements: dict[str, Requirement] = {}
    for area in areas:
        for row in _requirements(folder / "requirements" / f"{area}.toml", area):
            if row.id in requirements:
                first = requirements[row.id].area
                raise ContractError(f"{area}.toml: {row.id!r} is a duplicate; {first}.toml has it already")
            requirements[row.id] = row
    return Contract(
        _text(head, "version", where),
        MappingProxyType(requirements),
        MappingProxyType(areas),
        MappingProxyType(provenances),
    )


_FIELDS = {
    "id",
    "statement",
    "rationale",
    "level",
    "tier",
    "since",
    "observers",
    "capability",
    "also_needs",
    "steady",
    "defects",
}


def _requirements(file: Traversable, area: str) -> Iterable[Requirement]:
    for number, row in enumerate(_rows(_toml(file), "requirement", file.name), start=1):
        where = f"{file.name}, row {number} ({row.get('id', 'without an id')})"
        if unknown := row.keys() - _FIELDS:
            raise ContractError(f"{where}: unknown field {', '.join(sorted(unknown))}")
        level = _choice(Level, row.get("level"), "level", where)
        capability = _capability(row.get("capability", ""), where)
        if level is Level.CONDITIONAL and capability is None:
            raise ContractError(f"{where}: a conditional requirement needs a capability")
        if level is Level.MUST and capability is not None:
            raise ContractError(f"{where}: a must has no capability; no driver may opt out of it")
        observers = tuple(_choice(Observer, name, "observer", where) for name in _texts(row, "observers", where))
        if not observers:
            raise ContractError(f"{where}: nobody observes it")
        if (tier := row.get("tier")) not in (1, 2):
            raise ContractError(f"{where}: tier is {tier!r}, not 1 or 2")
        if not isinstance(steady := row.get("steady", False), bool):
            raise ContractError(f"{where}: steady is {steady!r}, not true or false")
        yield Requirement(
            id=_id(row, where),
            level=level,
            area=area,
            capability=capability,
            also_needs=tuple(
                _choice(Capability, item, "capability", where) for item in _texts(row, "also_needs", where)
            ),
            statement=_text(row, "statement", where),
            observers=observers,
            since=_text(row, "since", where),
            tier=1 if tier == 1 else 2,
            steady=steady,
            rationale=_text(row, "rationale", where) if "rationale" in row else "",
            defects=tuple(_texts(row, "defects", where)),
        )


def _toml(file: Traversable) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ContractError(f"{file.name} is missing") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"{file.name} is not TOML: {error}") from error


def _rows(table: Mapping[str, object], key: str, where: str) -> list[dict[str, object]]:
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ContractError(f"{where}: write each {key} as [[{key}]]")
    return rows


def _named(table: Mapping[str, object], key: str, where: str) -> list[tuple[str, dict[str, object]]]:
    rows = [(_text(row, "name", f"{where}, {key}"), row) for row in _rows(table, key, where)]
    names = [name for name, _ in rows]
    if len(set(names)) < len(names):
        raise ContractError(f"{where}: two of the {key}s have one name")
    return rows


def _text(row: Mapping[str, object], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ContractError(f"{where}: {key} is {'missing' if value is None else 'not a text'}")
    return value


def _texts(row: Mapping[str, object], key: str, where: str) -> list[str]:
    value = row.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ContractError(f"{where}: {key} is not a list of texts")
    return value


def _id(row: Mapping[str, object], where: str) -> str:
    id = _text(row, "id", where)
    group, dot, name = id.partition(".")
    if not (dot and all(part.replace("-", "").isalnum() and part == part.lower() for part in (group, name))):
        raise ContractError(f"{where}: an id reads like reboot.exactly-once, not {id!r}")
    return id


def _capability(value: object, where: str) -> Capability | None:
    return None if value == "" else _choice(Capability, value, "capability", where)


def _choice(kind: type[_Choice], value: object, what: str, where: str) -> _Choice:
    try:
        return kind(str(value))
    except ValueError:
        near = difflib.get_close_matches(str(value), [str(member) for member in kind], n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise ContractError(f"{where}: unknown {what} {value!r}{guess}") from None
