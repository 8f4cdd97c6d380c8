"""The peer's place in a network: a station on the wire that also keeps what it hears."""

from __future__ import annotations

from collections.abc import Callable

from labs.simulated.world import frames
from labs.simulated.world.clock import VirtualClock
from labs.simulated.world.network import WIRE, Network, Port
from labs.simulated.world.station import Station

BEAT_PORT = 7780


class PeerStation(Station):
    """The wire peer's stack. `listeners` hear every frame, sent or received; `beats` hear every heartbeat."""

    def __init__(self, network: Network, clock: VirtualClock) -> None:
        super().__init__(network.peer_mac, self._put, lambda: clock.now_ns, network.mtu)
        self.network = network
        self.listeners: list[Callable[[bytes], None]] = []
        self.beats: list[Callable[[str], None]] = []
        self.ipv4 = network.peer4
        self.ipv6 = [frames.link_local(self.mac)]
        if network.ipv6 is not None:
            self.ipv6.append(frames.eui64(str(network.ipv6.network_address), self.mac))
        self.udp[7778] = lambda _sender, _port, payload: payload
        self.udp[BEAT_PORT] = self._beat
        self._port = Port("peer", WIRE, self._heard)
        network.plug(self._port)

    def _put(self, frame: bytes, fragments: bool) -> None:
        for listener in list(self.listeners):
            listener(frame)
        self.network.transmit(self._port, frame, fragments=fragments)

    def send_raw(self, frame: bytes) -> None:
        """Put a frame on the wire as it is."""
        self._put(frame, False)

    def _heard(self, frame: bytes) -> None:
        for listener in list(self.listeners):
            listener(frame)
        self.receive(frame)

    def _beat(self, _sender: str, _port: int, payload: bytes) -> None:
        for listener in list(self.beats):
            listener(payload.decode("ascii", "replace"))
