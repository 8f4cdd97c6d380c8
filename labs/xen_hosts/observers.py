"""Observers of any lab whose hosts run Xen: nested, or a user's own over SSH."""

from __future__ import annotations

from conformance.lab.inventory import Host, LabInventory
from conformance.shells.shell import Shell
from labs.hosts.observers import HostObservers
from labs.xen_hosts.probe import XenHostProbe


class XenObservers(HostObservers[XenHostProbe]):
    """Hosts are looked at by `XenHostProbe`."""

    def probe(self, lab: LabInventory, host: Host, shell: Shell) -> XenHostProbe:
        return XenHostProbe(lab, host, shell)
