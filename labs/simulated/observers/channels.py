"""The ways to a guest's agent: over one network, or over the serial console."""

from __future__ import annotations

from conformance.errors import GuestSilent
from labs.simulated.world.world import World

_RETRY_S = 0.02
_ANSWER_S = 0.001


class NetworkChannel:
    """The agent behind one NIC. Requests and replies are frames that cross the network like any other."""

    def __init__(self, world: World, network: str, mac: str) -> None:
        self._world = world
        self._peer = world.peers[network]
        self._mac = mac

    def ask(self, line: str, timeout_s: float) -> str:
        clock = self._world.clock
        with clock.lock:
            end_ns = clock.now_ns + round(timeout_s * 1e9)
            while True:
                clock.sleep(_ANSWER_S)
                address = self._peer.network.leases.get(self._mac)
                if address is not None:
                    reply = self._peer.request(address, 7777, line.encode(), fragments=True)
                    if reply is not None:
                        return reply.decode()
                if clock.now_ns >= end_ns:
                    raise GuestSilent(f"no answer from {self._mac} on {self._peer.network.name} in {timeout_s} s")
                clock.sleep(min(_RETRY_S, max(0.0, (end_ns - clock.now_ns) / 1e9)))


class SerialChannel:
    """The agent at a VM's serial console, on whichever host runs it."""

    def __init__(self, world: World, uuid: str) -> None:
        self._world = world
        self._uuid = uuid.lower()

    def ask(self, line: str, timeout_s: float) -> str:
        clock = self._world.clock
        with clock.lock:
            end_ns = clock.now_ns + round(timeout_s * 1e9)
            while True:
                clock.sleep(_ANSWER_S)
                for host in self._world.hosts.values():
                    domain = host.domains.get(self._uuid)
                    guest = domain.process.guest if domain is not None and domain.process is not None else None
                    if guest is not None and guest.answering:
                        return guest.agent.handle(line)
                if clock.now_ns >= end_ns:
                    raise GuestSilent(f"no answer on the serial console of {self._uuid} in {timeout_s} s")
                clock.sleep(min(_RETRY_S, max(0.0, (end_ns - clock.now_ns) / 1e9)))
