"""Seeded defects: real bugs of real drivers, to be planted into a driver so that the suites can be tested.

`apply` plants one. Most wrap any driver, the real ones too; some break one driver or the simulated world inside.
"""

from __future__ import annotations

from collections.abc import Mapping

from conformance.driver import Driver
from conformance.errors import LabFileError
from drivers.defects import data, identity, lies, power
from drivers.hyperv import defects as hyperv
from drivers.libvirt import defects as libvirt
from drivers.simulated import defects as simulated
from drivers.wrapping import Defect

__all__ = ["REGISTRY", "Defect", "apply"]

REGISTRY: Mapping[str, Defect] = {
    defect.name: defect
    for module in (power, data, identity, lies, simulated, libvirt, hyperv)
    for defect in module.DEFECTS
}
"""All defects by name."""


def apply(driver: Driver, name: str) -> Driver:
    """The driver with this defect in it.

    Raises:
        LabFileError: There is no such defect, or it needs another driver.
    """
    defect = REGISTRY.get(name)
    if defect is None:
        raise LabFileError(f"no defect {name!r}", hint=f"known: {', '.join(sorted(REGISTRY))}")
    if defect.only and driver.name != defect.only:
        raise LabFileError(
            f"the defect {name!r} needs the driver {defect.only!r}, not {driver.name!r}",
            hint="for any driver: " + ", ".join(sorted(known.name for known in REGISTRY.values() if not known.only)),
        )
    return defect.plant(driver)
