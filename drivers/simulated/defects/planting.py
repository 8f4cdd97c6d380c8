"""How a defect gets into the simulated hypervisor: the driver calls a broken kind of it."""

from __future__ import annotations

from collections.abc import Callable

from conformance.driver import Driver
from conformance.errors import LabFileError
from drivers.simulated.core import Core
from drivers.wrapping import Defect
from labs.simulated.world.migration import Hypervisor


def _planting(broken: type[Hypervisor]) -> Callable[[Driver], Driver]:
    def plant(driver: Driver) -> Driver:
        if not isinstance(driver, Core):
            raise LabFileError(f"{broken.__name__} needs the simulated driver, not {driver.name}")
        driver.hypervisor = broken(driver.world)
        return driver

    return plant


def inside(
    name: str, broken: type[Hypervisor], source: str, description: str, caught_by: tuple[str, ...], observer: str
) -> Defect:
    """A defect of the simulated hypervisor."""
    return Defect(name, source, description, caught_by, observer, _planting(broken), only="simulated")
