"""Layer 3 and 4 of one NIC: neighbours, echo, UDP and TCP, for guests and for wire peers alike."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from labs.simulated.world import frames
from labs.simulated.world.frames import Packet

SYN, RST, PSH, ACK = 0x02, 0x04, 0x08, 0x10
_RTO_NS = 40_000_000

UdpHandler = Callable[[str, int, bytes], bytes | None]
"""Takes (sender, its port, payload) and returns the reply's payload, if any."""


@dataclass(slots=True)
class Connection:
    """One end of a TCP connection: go-back-N, with a fixed retransmission time.

    Args:
        arrived: Gets the bytes of each segment, in order.
    """

    address: str
    port: int
    own_port: int
    arrived: Callable[[bytes], None]
    sent: int = 0
    expected: int = 0
    unacknowledged: list[tuple[int, bytes, int]] = field(default_factory=list)
    reset: bool = False


class Station:
    """What a network stack does with one NIC.

    Args:
        mac: The NIC's address.
        send: Puts a frame on the wire; the second argument says that it stands for several fragments.
        now_ns: The world's time, for retransmissions.
        mtu: Of the network.
    """

    def __init__(self, mac: str, send: Callable[[bytes, bool], None], now_ns: Callable[[], int], mtu: int) -> None:
        self.mac = mac
        self.mtu = mtu
        self.ipv4 = ""
        self.prefix4 = 0
        self.ipv6: list[str] = []
        self.udp: dict[int, UdpHandler] = {}
        self.accept: dict[int, Callable[[Connection], None]] = {}
        self.connections: dict[tuple[str, int, int], Connection] = {}
        self.overheard: Counter[str] | None = None  # frames for others by their MAC, once somebody asked
        self._send = send
        self._now_ns = now_ns
        self._neighbours: dict[str, str] = {}
        self._echoes: set[tuple[str, int]] = set()
        self._sequence = 0
        self._replies: dict[int, bytes] = {}
        self._ephemeral = 40000

    # sending

    def own(self, version: int) -> str:
        """The address to send from."""
        if version == 4:
            return self.ipv4
        routed = [address for address in self.ipv6 if not address.startswith("fe80")]
        return (routed or self.ipv6 or [""])[0]

    def resolve(self, address: str) -> str:
        """The MAC behind an address; empty when nobody answers."""
        if address not in self._neighbours:
            if ip_address(address).version == 4:
                ask = frames.arp(1, self.mac, self.ipv4 or "0.0.0.0", "00:00:00:00:00:00", address)
                self._send(frames.ethernet(frames.BROADCAST, self.mac, frames.ARP, ask), False)
            elif self.ipv6:
                body = frames.neighbour(135, address, self.mac)
                group = "33:33:ff:" + ip_address(address).packed[-3:].hex(":")
                source = self.ipv6[0] if address.startswith("fe80") else self.own(6)
                solicited = "ff02::1:ff" + ip_address(address).packed[-3:].hex()[:2]
                solicited += ":" + ip_address(address).packed[-2:].hex()
                packet = Packet(source, str(ip_address(solicited)), frames.ICMPV6, body)
                self._send(frames.ethernet(group, self.mac, *frames.ip(packet)), False)
        return self._neighbours.get(address, "")

    def send_ip(self, address: str, protocol: int, body: bytes, *, fragments: bool = False, source: str = "") -> bool:
        """Send a packet; False when there is no way to the address or it does not fit the MTU."""
        version = ip_address(address).version
        source = source or self.own(version)
        head = 20 if version == 4 else 40
        if not source or (head + len(body) > self.mtu and not fragments):
            return False
        mac = self.resolve(address)
        if not mac:
            return False
        self._send(frames.ethernet(mac, self.mac, *frames.ip(Packet(source, address, protocol, body))), fragments)
        return True

    def ping(self, address: str, payload_bytes: int, *, dont_fragment: bool) -> bool:
        """Whether an echo request is answered at once."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        v4 = ip_address(address).version == 4
        body = frames.icmp(8 if v4 else 128, 1, self._sequence, bytes(payload_bytes))
        if not self.send_ip(address, frames.ICMP if v4 else frames.ICMPV6, body, fragments=not dont_fragment):
            return False
        return (address, self._sequence) in self._echoes

    def request(self, address: str, port: int, payload: bytes, *, fragments: bool = False) -> bytes | None:
        """Send a datagram and return the answer, if one comes at once."""
        self._ephemeral = 40000 + (self._ephemeral - 39999) % 20000
        own_port = self._ephemeral
        self.udp[own_port] = lambda _sender, _port, reply: self._replies.__setitem__(own_port, reply)
        try:
            self.send_ip(address, frames.UDP, frames.udp(own_port, port, payload), fragments=fragments)
        finally:
            del self.udp[own_port]
        return self._replies.pop(own_port, None)

    # receiving

    def receive(self, frame: bytes) -> None:
        """Take a frame from the wire."""
        head = frames.parse(frame)
        if head is None:
            return
        if head.destination != self.mac and not frames.is_group(head.destination):
            if self.overheard is not None:
                self.overheard[head.destination] += 1
            return
        if head.ethertype == frames.ARP:
            self._receive_arp(head.payload)
            return
        packet = frames.parse_ip(head.ethertype, head.payload)
        if packet is None:
            return
        fragments = len(head.payload) > self.mtu
        if packet.protocol == frames.ICMPV6:
            self._receive_icmp6(packet, head.source, fragments)
        elif packet.destination not in (self.ipv4, *self.ipv6, "255.255.255.255"):
            return
        elif packet.protocol == frames.ICMP:
            self._echo(packet, 8, 0, fragments)
        elif packet.protocol == frames.UDP:
            self._receive_udp(packet, fragments)
        elif packet.protocol == frames.TCP:
            self._receive_tcp(packet)

    def _receive_arp(self, payload: bytes) -> None:
        said = frames.parse_arp(payload)
        if said is None:
            return
        operation, mac, address, target = said
        if address in self._neighbours or (operation == 2 and target == self.ipv4):
            self._neighbours[address] = mac
        if operation == 1 and target == self.ipv4 and self.ipv4:
            self._neighbours[address] = mac
            answer = frames.arp(2, self.mac, self.ipv4, mac, address)
            self._send(frames.ethernet(mac, self.mac, frames.ARP, answer), False)

    def _receive_icmp6(self, packet: Packet, mac: str, fragments: bool) -> None:
        kind = packet.body[0] if len(packet.body) >= 8 else 0
        if kind in (135, 136) and len(packet.body) >= 24:
            target = str(ip_address(packet.body[8:24]))
            if kind == 136:
                self._neighbours[target] = mac
            elif target in self.ipv6:
                self._neighbours[packet.source] = mac
                answer = Packet(target, packet.source, frames.ICMPV6, frames.neighbour(136, target, self.mac))
                self._send(frames.ethernet(mac, self.mac, *frames.ip(answer)), False)
        elif packet.destination in self.ipv6:
            self._echo(packet, 128, 129, fragments)

    def _echo(self, packet: Packet, request: int, reply: int, fragments: bool) -> None:
        if len(packet.body) < 8:
            return
        kind, _, _, identifier, sequence = struct.unpack("!BBHHH", packet.body[:8])
        if kind == request:
            body = frames.icmp(reply, identifier, sequence, packet.body[8:])
            self.send_ip(packet.source, packet.protocol, body, fragments=fragments, source=packet.destination)
        elif kind == reply:
            self._echoes.add((packet.source, sequence))

    def _receive_udp(self, packet: Packet, fragments: bool) -> None:
        if len(packet.body) < 8:
            return
        source_port, own_port = struct.unpack("!HH", packet.body[:4])
        handler = self.udp.get(own_port)
        reply = handler(packet.source, source_port, packet.body[8:]) if handler else None
        if reply is not None:
            large = fragments or len(reply) > self.mtu - 48
            self.send_ip(
                packet.source,
                frames.UDP,
                frames.udp(own_port, source_port, reply),
                fragments=large,
                source=packet.destination,
            )

    # TCP

    def connect(self, address: str, port: int, arrived: Callable[[bytes], None]) -> Connection | None:
        """Open a connection; None when nobody accepts it."""
        self._ephemeral = 40000 + (self._ephemeral - 39999) % 20000
        connection = Connection(address, port, self._ephemeral, arrived)
        key = (address, port, connection.own_port)
        self.connections[key] = connection
        self.send_ip(address, frames.TCP, frames.tcp(connection.own_port, port, 0, 0, SYN, b""))
        if connection.reset or not connection.expected:
            del self.connections[key]
            return None
        return connection

    def hang_up(self, connection: Connection) -> None:
        """Forget a connection and tell the other side."""
        self._segment(connection, RST, connection.sent, b"")
        self.connections.pop((connection.address, connection.port, connection.own_port), None)

    def push(self, connection: Connection, data: bytes) -> None:
        """Send bytes; they are sent again until they are acknowledged."""
        segment = (connection.sent, data, self._now_ns())
        connection.sent += len(data)
        connection.unacknowledged.append(segment)
        self._segment(connection, PSH | ACK, segment[0], data)

    def retransmit(self, connection: Connection) -> None:
        """Send again what has been waiting for an acknowledgement for too long."""
        waiting = connection.unacknowledged
        if waiting and self._now_ns() - waiting[0][2] >= _RTO_NS:
            connection.unacknowledged = [(sequence, data, self._now_ns()) for sequence, data, _ in waiting]
            for sequence, data, _ in list(connection.unacknowledged):
                self._segment(connection, PSH | ACK, sequence, data)

    def _segment(self, connection: Connection, flags: int, sequence: int, data: bytes) -> None:
        body = frames.tcp(
            connection.own_port, connection.port, sequence & 0xFFFFFFFF, connection.expected & 0xFFFFFFFF, flags, data
        )
        self.send_ip(connection.address, frames.TCP, body)

    def _receive_tcp(self, packet: Packet) -> None:
        if len(packet.body) < 20:
            return
        port, own_port, sequence, acknowledged, _, flags = struct.unpack("!HHIIBB", packet.body[:14])
        data = packet.body[20:]
        key = (packet.source, port, own_port)
        connection = self.connections.get(key)
        if flags & RST:
            if connection is not None:
                connection.reset = True
        elif flags & SYN and not flags & ACK:
            self._accept(packet.source, port, own_port)
        elif connection is None:
            reset = frames.tcp(own_port, port, acknowledged, 0, RST, b"")
            self.send_ip(packet.source, frames.TCP, reset)
        elif flags & SYN:
            connection.sent = connection.expected = 1
        else:
            connection.unacknowledged = [part for part in connection.unacknowledged if part[0] >= acknowledged]
            if data:
                fresh = sequence == connection.expected
                connection.expected += len(data) if fresh else 0
                self._segment(connection, ACK, connection.sent, b"")
                if fresh:
                    connection.arrived(data)

    def _accept(self, address: str, port: int, own_port: int) -> None:
        accept = self.accept.get(own_port)
        if accept is None:
            self.send_ip(address, frames.TCP, frames.tcp(own_port, port, 0, 0, RST | ACK, b""))
            return
        connection = Connection(address, port, own_port, lambda _: None, sent=1, expected=1)
        self.connections[address, port, own_port] = connection
        accept(connection)
        self._segment(connection, SYN | ACK, 0, b"")
