"""What a seeded defect is, and how it wraps a driver: a few methods are overridden, everything else is the driver's."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from conformance.driver import FACETS, Driver
from conformance.lab.inventory import LabInventory, Target

CORE_METHODS = tuple(sorted(Driver.__abstractmethods__ - {"connect"}))


def facet_methods(facet: type[Any]) -> tuple[str, ...]:
    """The names of a facet's methods."""
    return tuple(name for name, member in vars(facet).items() if callable(member) and not name.startswith("_"))


class Wrapper(Driver):
    """Base of every defect that works on any driver. Only what a defect overrides differs from `inner`.

    Args:
        inner: The driver that does the work. Typed loosely, because which facets it has is only known when it runs.
    """

    name: ClassVar[str] = "defect"
    inner: Any

    def __init__(self, inner: Driver) -> None:
        self.inner = inner

    @classmethod
    def connect(cls, lab: LabInventory, target: Target) -> Driver:  # noqa: ARG003 - never called
        raise TypeError("a defect wraps a driver that is connected already")


def dress(defect: type[Wrapper], driver: Driver) -> Driver:
    """`driver` in the clothes of `defect`, with exactly the facets that it has by itself."""
    names = set(CORE_METHODS)
    for facet in set(FACETS.values()):
        if isinstance(driver, facet):
            names.update(facet_methods(facet))
    overridden = {name for base in defect.__mro__ if issubclass(base, Wrapper) for name in vars(base)}
    body: dict[str, Any] = {name: _forward(name) for name in names - overridden}
    body["name"] = driver.name
    body["option_names"] = driver.option_names
    made = ABCMeta(defect.__name__, (defect,), body)
    wrapped: Driver = made(driver)
    return wrapped


def _forward(name: str) -> Callable[..., Any]:
    def call(self: Wrapper, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, name)(*args, **kwargs)

    call.__name__ = name
    return call


@dataclass(frozen=True, slots=True)
class Defect:
    """One seeded defect.

    Args:
        name: What a target's ``defect`` says.
        source: The real bug it repeats, or what it stands for.
        description: What a user would see.
        caught_by: Ids of requirements each of which must fail; empty where only a rate over many tests shows it.
        observer: The weakest observer that can see it: driver, guest, host or wire.
        plant: Puts it into a driver.
        only: Name of the driver it needs; empty when it wraps any.
    """

    name: str
    source: str
    description: str
    caught_by: tuple[str, ...]
    observer: str
    plant: Callable[[Driver], Driver]
    only: str = ""


def wrapping(
    name: str, wrapper: type[Wrapper], source: str, description: str, caught_by: tuple[str, ...], observer: str
) -> Defect:
    """A defect that wraps any driver."""
    return Defect(name, source, description, caught_by, observer, lambda driver: dress(wrapper, driver))
