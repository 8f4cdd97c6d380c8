"""Layer 2: networks with a learning bridge on each host, and ports with rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from labs.simulated.world import frames
from labs.simulated.world.frames import Ethernet

WIRE = "wire"
"""The bridge that stands for the physical network: the peer and the DHCP server are on it."""


@dataclass(eq=False, slots=True)
class Port:
    """A bridge port. `allows` is its anti-spoof rule; `link` is the cable; `receive` gets every frame that arrives."""

    name: str
    bridge: str
    receive: Callable[[bytes], None]
    allows: Callable[[Ethernet], bool] | None = None
    link: bool = True


@dataclass(slots=True)
class Bridge:
    """One host's bridge: its ports, and what it learned about who is behind which."""

    ports: list[Port] = field(default_factory=list)
    learned: dict[str, Port] = field(default_factory=dict)


class Network:
    """One isolated segment over all hosts.

    A unicast frame goes where its destination was last heard from, so a VM that moved is only reached once it has been
    heard from its new host.
    """

    def __init__(self, name: str, ipv4: IPv4Network, ipv6: IPv6Network | None, mtu: int, hosts: list[str]) -> None:
        self.name = name
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.mtu = mtu
        self.leases: dict[str, str] = {}
        self.moves: list[tuple[str, str]] = []
        self._bridges = {host: Bridge() for host in (*hosts, WIRE)}
        self._seen_on: dict[str, str] = {}
        self._addresses = ipv4.hosts()
        self.gateway4 = str(next(self._addresses))
        self.peer4 = self.gateway4
        self.peer_mac = ""

    def plug(self, port: Port) -> None:
        self._bridges[port.bridge].ports.append(port)

    def unplug(self, port: Port) -> None:
        bridge = self._bridges[port.bridge]
        if port in bridge.ports:
            bridge.ports.remove(port)
        for mac in [mac for mac, behind in bridge.learned.items() if behind is port]:
            del bridge.learned[mac]

    def where(self, mac: str) -> str:
        """The bridge a MAC was last heard on; empty if it never was."""
        return self._seen_on.get(mac, "")

    def transmit(self, port: Port, frame: bytes, *, fragments: bool = False) -> None:
        """Send a frame out of `port`.

        Args:
            fragments: The frame stands for several that fit the MTU, as a fragmented packet or a TCP segment would.
        """
        head = frames.parse(frame)
        if head is None or not port.link or port not in self._bridges[port.bridge].ports:
            return
        if len(frame) > self.mtu + frames.ETHERNET_BYTES and not fragments:
            return
        if port.allows is not None and not port.allows(head):
            return
        self._learn(head.source, port)
        group = frames.is_group(head.destination)
        here = self._bridges[port.bridge]
        if not group and (behind := here.learned.get(head.destination)) is not None:
            self._deliver(behind, frame, port)
            return
        target = None if group else self._seen_on.get(head.destination)
        if target in (None, port.bridge):
            self._flood(here, frame, port)
        for name, bridge in self._bridges.items():
            if name == port.bridge or (target is not None and name != target):
                continue
            behind = None if group else bridge.learned.get(head.destination)
            if behind is not None:
                self._deliver(behind, frame, port)
            else:
                self._flood(bridge, frame, port)

    def _learn(self, mac: str, port: Port) -> None:
        if frames.is_group(mac):
            return
        if self._seen_on.get(mac) != port.bridge:
            self.moves.append((mac, port.bridge))
            for bridge in self._bridges.values():
                bridge.learned.pop(mac, None)
        self._seen_on[mac] = port.bridge
        self._bridges[port.bridge].learned[mac] = port

    def _flood(self, bridge: Bridge, frame: bytes, origin: Port) -> None:
        for port in list(bridge.ports):
            self._deliver(port, frame, origin)

    @staticmethod
    def _deliver(port: Port, frame: bytes, origin: Port) -> None:
        if port is not origin and port.link:
            port.receive(frame)

    def lease(self, mac: str) -> str:
        """The address of a MAC: the same one for ever."""
        if mac not in self.leases:
            self.leases[mac] = str(next(self._addresses))
        return self.leases[mac]


def anti_spoof(mac: str, address: Callable[[], str], ipv6: IPv6Network | None) -> Callable[[Ethernet], bool]:
    """The rule of a port that only lets its own MAC and addresses out, and no DHCP server.

    Args:
        mac: The NIC's MAC.
        address: Gives the leased IPv4 address, empty before there is one.
        ipv6: The network's prefix, from which the one legal global address follows.
    """
    own6 = {frames.link_local(mac), "::"} | ({frames.eui64(str(ipv6.network_address), mac)} if ipv6 else set())

    def allows(head: Ethernet) -> bool:
        if head.source != mac:
            return False
        if head.ethertype in (frames.ARP, frames.RARP):
            said = frames.parse_arp(head.payload)
            return said is not None and said[1] == mac and said[2] in ("0.0.0.0", address())
        packet = frames.parse_ip(head.ethertype, head.payload)
        if packet is None:
            return True
        if packet.protocol == frames.UDP and packet.body[:2] == (67).to_bytes(2, "big"):
            return False
        return packet.source in own6 if head.ethertype == frames.IPV6 else packet.source in ("0.0.0.0", address())

    return allows


def own_mac(mac: str) -> Callable[[Ethernet], bool]:
    """The rule of a port that only lets frames with its own MAC out."""
    return lambda head: head.source == mac
