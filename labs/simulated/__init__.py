"""The lab kind `simulated`: a whole lab in this process's memory."""

from labs.simulated.lab import SimulatedLab

__all__ = ["SimulatedLab"]
