"""Labs whose hosts run Xen: their observers, and the lab kind for hosts of a user's own."""

from __future__ import annotations

from labs.xen_hosts.lab import XenHostsLab

__all__ = ["XenHostsLab"]
