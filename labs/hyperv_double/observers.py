"""The observers of the double: the world's own for guests and wire, probes over WinRM for the hosts."""

from __future__ import annotations

from conformance.errors import HostDown
from conformance.lab.inventory import LabInventory
from labs.hyperv_double.site import unwatch, watch
from labs.hyperv_hosts.observers import probe
from labs.hyperv_hosts.probe import HypervHostProbe
from labs.simulated.observers import SimulatedObservers


class DoubleObservers(SimulatedObservers):
    """The world's own observers for guests and wire; the hosts are asked over WinRM, in sessions of the probes' own."""

    def __init__(self, inventory: LabInventory) -> None:
        watch(inventory)
        super().__init__(inventory)
        self._lab = inventory
        self._closed = False
        self._probes: dict[str, HypervHostProbe] = {}

    def host(self, name: str) -> HypervHostProbe:  # type: ignore[override]  # a host probe, too
        if name not in self._probes:
            if name not in {host.name for host in self._lab.hosts}:
                raise HostDown(f"the double has no host {name!r}")
            self._probes[name] = probe(self._lab, name)
        return self._probes[name]

    def close(self) -> None:
        for each in self._probes.values():
            each.close()
        self._probes.clear()
        if not self._closed:
            self._closed = True
            unwatch(self._lab.name)
