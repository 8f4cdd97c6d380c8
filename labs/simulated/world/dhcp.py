"""DHCP messages (RFC 2131), with the two-message exchange of RFC 4039: a discover is answered by an acknowledgement."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from labs.simulated.world import frames
from labs.simulated.world.network import WIRE, Network, Port

DISCOVER, ACK = 1, 5
SERVER_PORT, CLIENT_PORT = 67, 68
_COOKIE = bytes([99, 130, 83, 99])
_HEAD = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")


@dataclass(frozen=True, slots=True)
class Message:
    """What is used of a message. `network` is the address with its mask, None in a discover."""

    kind: int
    mac: str
    address: str = "0.0.0.0"
    prefix: int = 0


def build(message: Message, gateway: str = "") -> bytes:
    """The bytes of a discover or an acknowledgement."""
    asked = message.kind == DISCOVER
    zero = bytes(4)
    head = _HEAD.pack(
        1 if asked else 2, 1, 6, 0, 0x48564331, 0, 0x8000,
        zero, IPv4Address(message.address).packed, zero, zero,
        frames.mac_bytes(message.mac), b"", b"",
    )  # fmt: skip
    options = bytes([53, 1, message.kind, 80, 0])
    if not asked:
        mask = IPv4Network((0, message.prefix)).netmask.packed
        router = IPv4Address(gateway).packed
        options += bytes([1, 4]) + mask + bytes([3, 4]) + router + bytes([6, 4]) + router
    return head + _COOKIE + options + b"\xff"


def parse(data: bytes) -> Message | None:
    """The message, or None if it is none."""
    if len(data) < _HEAD.size + 4 or data[_HEAD.size : _HEAD.size + 4] != _COOKIE:
        return None
    fields = _HEAD.unpack(data[: _HEAD.size])
    kind, prefix, at = 0, 0, _HEAD.size + 4
    while at + 1 < len(data) and data[at] != 255:
        code, length = data[at], data[at + 1]
        value = data[at + 2 : at + 2 + length]
        if code == 53 and length == 1:
            kind = value[0]
        elif code == 1 and length == 4:
            prefix = int.from_bytes(value, "big").bit_count()
        at += 2 + length
    return Message(kind, frames.mac_text(fields[11][:6]), str(IPv4Address(fields[8])), prefix)


class DhcpServer:
    """The DHCP server of a network, on the wire."""

    def __init__(self, network: Network, mac: str) -> None:
        self._network = network
        self._mac = mac
        self._port = Port("dhcp", WIRE, self._receive)
        network.plug(self._port)

    def _receive(self, frame: bytes) -> None:
        head = frames.parse(frame)
        packet = frames.parse_ip(head.ethertype, head.payload) if head is not None else None
        if packet is None or packet.protocol != frames.UDP:
            return
        if packet.body[2:4] != SERVER_PORT.to_bytes(2, "big"):
            return
        asked = parse(packet.body[8:])
        if asked is None or asked.kind != DISCOVER:
            return
        network = self._network
        answer = Message(ACK, asked.mac, network.lease(asked.mac), network.ipv4.prefixlen)
        body = frames.udp(SERVER_PORT, CLIENT_PORT, build(answer, network.gateway4))
        reply = frames.ip(frames.Packet(network.gateway4, "255.255.255.255", frames.UDP, body))
        network.transmit(self._port, frames.ethernet(asked.mac, self._mac, *reply))
