"""The simulated world: a complete hypervisor environment in memory. `get` gives the one of a lab."""

from labs.simulated.world.world import World, forget, get, known

__all__ = ["World", "forget", "get", "known"]
