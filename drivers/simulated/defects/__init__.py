"""Defects inside the simulated hypervisor, which no wrapper round a driver could make."""

from drivers.simulated.defects import migration, storage

__all__ = ["DEFECTS"]

DEFECTS = (*migration.DEFECTS, *storage.DEFECTS)
