"""The driver of the simulated world: it keeps the whole contract, and the suites are tried on it first."""

from drivers.simulated.driver import SimulatedDriver

__all__ = ["SimulatedDriver"]
