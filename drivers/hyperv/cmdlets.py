"""The table of cmdlets and parameters that the driver may use: a name that it does not have is a mistake of ours."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from drivers.hyperv.transport.base import Command, Step

TABLE = Path(__file__).with_name("cmdlets.toml")

OLDEST = "2016"
"""The oldest Windows Server that the driver is for."""


@dataclass(frozen=True, slots=True)
class Cmdlet:
    """One cmdlet of the table.

    Args:
        module: The module that has it, as in the address of its page.
        parameters: What it takes in each version; by name in lower case, the version that has it first.
    """

    name: str
    module: str
    parameters: Mapping[str, str]

    @property
    def page(self) -> str:
        """Microsoft's reference page."""
        return f"https://learn.microsoft.com/powershell/module/{self.module}/{self.name.lower()}"


@functools.cache
def table() -> Mapping[str, Cmdlet]:
    """All cmdlets, by name in lower case."""
    raw = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    common = {name.lower(): OLDEST for name in raw.pop("common")}
    made = {}
    for name, row in raw.items():
        parameters = common | {parameter.lower(): OLDEST for parameter in row["parameters"]}
        for version, later in row.get("since", {}).items():
            parameters |= {parameter.lower(): version for parameter in later}
        made[name.lower()] = Cmdlet(name, row["module"], parameters)
    return made


def mistakes(cmdlet: str, parameters: Iterable[str], version: str = OLDEST) -> list[str]:
    """What is wrong with a command by the table, on a version of Windows Server such as ``"2016"``."""
    known = table().get(cmdlet.lower())
    if known is None:
        return [f"{cmdlet} is not in {TABLE.name}"]
    return [
        f"{cmdlet} has no -{name} in {version}: {known.page}"
        for name in parameters
        if known.parameters.get(name.lower(), "9999") > version
    ]


def check(step: Step) -> None:
    """Raise `ValueError` for a command that the table does not allow on the oldest version."""
    if isinstance(step, Command) and (found := mistakes(step.cmdlet, step.parameters)):
        raise ValueError("; ".join(found))
