"""Observers of labs whose hosts run Xen."""

from __future__ import annotations

from collections.abc import Sequence

from labs.libvirt_hosts.observers import LibvirtObservers


class XenObservers(LibvirtObservers):
    """For now what libvirt hosts have."""

    def health(self) -> Sequence[str]:
        return []
