"""The plugin's command line options, read once and checked whole."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.contract import Contract, Level, Requirement
from conformance.lab.labs import near

PROFILES = {
    "core": {Level.MUST},
    "extended": {Level.MUST, Level.CONDITIONAL},
    "all": {Level.MUST, Level.CONDITIONAL, Level.SHOULD},
}


def add(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("hvconform", "conformance of hypervisor drivers (inert without --lab)")
    group.addoption(
        "--lab", action="append", default=[], metavar="NAME|FILE", help="nested lab or lab file; several make a pool"
    )
    group.addoption("--target", action="append", default=[], metavar="SLUG", help="only this target of the lab")
    group.addoption("--area", action="append", default=[], help="only this area of the contract")
    group.addoption("--requirement", action="append", default=[], metavar="ID", help="only these; globs are fine")
    group.addoption("--profile", default="all", help="core: must; extended: and conditional; all: and should")
    group.addoption("--provenance", action="append", default=[], help="steady checks only on VMs that came about so")
    group.addoption("--out", metavar="DIR", help="where the run record and the reports go")
    group.addoption("--keep-lab", action="store_true", help="leave nested labs up after the run")
    group.addoption("--lease-url", metavar="URL", help="coordinator of leases, as tooz takes it")


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for. Empty tuples mean everything."""

    labs: tuple[str, ...]
    targets: tuple[str, ...]
    areas: tuple[str, ...]
    requirements: tuple[str, ...]
    profile: str
    provenances: tuple[str, ...]
    out: Path | None
    keep_lab: bool
    lease_url: str

    def selects(self, row: Requirement) -> bool:
        """Whether a requirement is to be run."""
        return (
            row.level in PROFILES[self.profile]
            and (not self.areas or row.area in self.areas)
            and (not self.requirements or any(fnmatch.fnmatchcase(row.id, glob) for glob in self.requirements))
        )


def read(config: pytest.Config, contract: Contract) -> Settings:
    """Check the options against the contract; raises `pytest.UsageError` with every problem."""
    option = config.getoption
    settings = Settings(
        labs=_split(option("--lab")),
        targets=_split(option("--target")),
        areas=_split(option("--area")),
        requirements=_split(option("--requirement")),
        profile=option("--profile"),
        provenances=_split(option("--provenance")),
        out=Path(option("--out")) if option("--out") else None,
        keep_lab=option("--keep-lab"),
        lease_url=option("--lease-url") or "",
    )
    problems = [
        f"--{kind}: no {kind} {name!r}{near(name, known)}"
        for kind, given, known in (
            ("area", settings.areas, contract.areas),
            ("provenance", settings.provenances, contract.provenances),
        )
        for name in given
        if name not in known
    ]
    if settings.profile not in PROFILES:
        problems.append(f"--profile: no profile {settings.profile!r}{near(settings.profile, PROFILES)}")
    for glob in settings.requirements:
        if not fnmatch.filter(contract.requirements, glob):
            problems.append(
                f"--requirement: no requirement is called {glob!r}{near(glob, contract.requirements)}"
                "\n  try: hvconform contract list"
            )
    if problems:
        raise pytest.UsageError("\n".join(problems))
    return settings


def _split(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(part for value in values for part in value.split(",") if part)
