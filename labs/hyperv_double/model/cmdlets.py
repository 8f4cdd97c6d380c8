"""What a cmdlet of the model is: a function with the page that documents it, bound as PowerShell binds parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labs.hyperv_double.engine import Command, Session
from labs.hyperv_double.model import errors
from labs.simulated.world.clock import Steps
from labs.simulated.world.domain import Domain

if TYPE_CHECKING:
    from labs.hyperv_double.model.model import Model
    from labs.hyperv_double.model.records import Vm

COMMON = ("ErrorAction", "WarningAction", "Confirm", "WhatIf", "Verbose", "Passthru", "AsJob", "Force")
LEARN = "https://learn.microsoft.com/powershell/module/"


class Item(dict[str, Any]):
    """An object in a pipeline: its properties, and what it stands for in the model."""

    def __init__(self, kind: str, ref: Any, properties: Mapping[str, Any]) -> None:
        super().__init__(properties)
        self.kind = kind
        self.ref = ref


@dataclass
class Work:
    """Something that takes time on the host, as the one job of a VM where there is one.

    Args:
        steps: Does it; its result is what the cmdlet writes.
        domain: The VM that is busy with it.
        name: The job's name, as the VM's status shows it.
    """

    steps: Steps[Sequence[Item]]
    domain: Domain | None = None
    name: str = ""
    percent: int = 0


@dataclass
class Call:
    """One cmdlet of a pipeline that runs."""

    model: Model
    session: Session
    command: Command
    items: Sequence[Item] | None
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._given = {name.lower(): value for name, value in self.command.parameters.items()}

    @property
    def name(self) -> str:
        return self.command.name

    def has(self, name: str) -> bool:
        return name.lower() in self._given

    def get(self, name: str, default: Any = None) -> Any:
        return self._given.get(name.lower(), default)

    def text(self, name: str, default: str = "") -> str:
        value = self.get(name)
        return default if value is None else str(value)

    def need(self, name: str) -> Any:
        if name.lower() not in self._given:
            raise errors.invalid(self.name, f"Cannot process command because of a missing mandatory parameter: {name}.")
        return self._given[name.lower()]

    def switch(self, name: str) -> bool:
        return bool(self.get(name))

    def number(self, name: str, default: int = 0) -> int:
        try:
            return int(self.get(name, default))
        except (TypeError, ValueError):
            raise errors.invalid(self.name, f"Cannot convert value '{self.get(name)}' of {name} to a number.") from None

    def refs(self, kind: str) -> list[Any]:
        """What came in through the pipeline, of one kind."""
        found = [item.ref for item in self.items or () if item.kind == kind]
        if len(found) != len(self.items or ()):
            raise errors.invalid(self.name, "The input object cannot be bound to any parameters for the command.")
        return found

    def vms(self) -> list[Vm]:
        """The VMs that came in."""
        if self.items is None:
            raise errors.invalid(self.name, "the model takes VMs from the pipeline only")
        return self.refs("VM")


Handler = Callable[[Call], Iterable[Item] | Work]


@dataclass(frozen=True)
class Cmdlet:
    """A cmdlet that the model knows, its page, and the parameters that it takes besides the common ones."""

    name: str
    page: str
    parameters: frozenset[str]
    handler: Handler

    def check(self, call: Call) -> None:
        known = self.parameters | {name.lower() for name in COMMON}
        for name in call.command.parameters:
            if name.lower() not in known:
                raise errors.unknown_parameter(self.name, name)


REGISTRY: dict[str, Cmdlet] = {}


def cmdlet(name: str, *parameters: str, module: str = "hyper-v") -> Callable[[Handler], Handler]:
    """Register a handler. Its docstring says what it does; its page is where that is written."""

    def register(handler: Handler) -> Handler:
        page = f"{LEARN}{module}/{name.lower()}"
        REGISTRY[name.lower()] = Cmdlet(name, page, frozenset(each.lower() for each in parameters), handler)
        return handler

    return register


def none() -> Iterator[Item]:
    """A cmdlet that writes nothing."""
    return iter(())
