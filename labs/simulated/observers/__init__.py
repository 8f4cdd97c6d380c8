"""The observers of the simulated world: they look at its raw state, and never at a driver."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.errors import HostDown, ProbeFailed
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from labs.simulated import world as worlds
from labs.simulated.observers.channels import NetworkChannel, SerialChannel
from labs.simulated.observers.peer import SimulatedPeer
from labs.simulated.observers.probe import SimulatedProbe


class SimulatedObservers(Observers):
    """All observers of one world. The lab's clock is the world's: a second of waiting moves the world by a second."""

    def __init__(self, inventory: LabInventory) -> None:
        self._world = worlds.get(inventory)
        self.clock = self._world.clock

    def host(self, name: str) -> SimulatedProbe:
        if name not in self._world.hosts:
            raise HostDown(f"the simulated world has no host {name!r}", hint=f"known: {', '.join(self._world.hosts)}")
        return SimulatedProbe(self._world, self._world.hosts[name])

    def peer(self, network: str) -> SimulatedPeer:
        if network not in self._world.peers:
            known = ", ".join(self._world.peers)
            raise ProbeFailed(f"the simulated world has no network {network!r}", hint=f"known: {known}")
        return SimulatedPeer(self._world, self._world.peers[network])

    def network_channel(self, network: str, mac: str) -> NetworkChannel:
        self.peer(network)
        return NetworkChannel(self._world, network, mac)

    def serial_channel(self, uuid: str) -> SerialChannel:
        return SerialChannel(self._world, uuid)

    def realtime(self) -> float:
        return self._world.wall_ns() / 1e9

    def health(self) -> Sequence[str]:
        down = [host.name for host in self._world.hosts.values() if not host.management_up]
        return [f"the management of {name} is down" for name in down]

    def close(self) -> None:
        """Nothing was opened."""
