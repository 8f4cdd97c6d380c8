"""Labs whose hosts run libvirt with QEMU: their observers, and the lab kind for hosts of a user's own."""

from __future__ import annotations

from labs.libvirt_hosts.lab import LibvirtHostsLab

__all__ = ["LibvirtHostsLab"]
