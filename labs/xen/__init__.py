"""Two Xen hosts in QEMU: a real hypervisor on any machine, without root, from a saved state in a second."""

from __future__ import annotations

from labs.xen.lab import XenLab

__all__ = ["XenLab"]
