"""What the double's hosts are: cmdlets over the simulated world, with the semantics of Microsoft's documentation."""

from labs.hyperv_double.model import (
    checkpoints,
    cim,
    core,
    disks,
    doctor,
    files,
    migration,
    network,
    power,
    system,
    vms,
)
from labs.hyperv_double.model.model import Model
from labs.hyperv_double.model.site import MARKER, Knobs, Site, site_of

__all__ = ["MARKER", "Knobs", "Model", "Site", "site_of"]

PARTS = (vms, power, checkpoints, disks, network, migration, cim, files, system, core, doctor)
"""Modules whose cmdlets are registered by being imported."""
