"""Observers of any lab whose hosts run libvirt with QEMU: nested, or a user's own over SSH."""

from __future__ import annotations

from conformance.lab.inventory import Host, LabInventory
from conformance.shells.shell import Shell
from labs.hosts.observers import HostObservers
from labs.libvirt_hosts.probe import LibvirtHostProbe


class LibvirtObservers(HostObservers[LibvirtHostProbe]):
    """Hosts are looked at by `LibvirtHostProbe`."""

    def probe(self, lab: LabInventory, host: Host, shell: Shell) -> LibvirtHostProbe:
        return LibvirtHostProbe(lab, host, shell)
