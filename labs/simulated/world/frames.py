"""Ethernet frames as bytes: the few protocols that guests and peers of the world speak."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

ARP, RARP, IPV4, IPV6 = 0x0806, 0x8035, 0x0800, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
BROADCAST = "ff:ff:ff:ff:ff:ff"
ETHERNET_BYTES = 14


class Ethernet(NamedTuple):
    destination: str
    source: str
    ethertype: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet; addresses as text, `body` is everything after the IP header."""

    source: str
    destination: str
    protocol: int
    body: bytes


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(raw: bytes) -> str:
    return raw.hex(":")


def is_group(mac: str) -> bool:
    """Whether a MAC is a broadcast or multicast address."""
    return bool(int(mac[:2], 16) & 1)


def ethernet(destination: str, source: str, ethertype: int, payload: bytes) -> bytes:
    return mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", ethertype) + payload


def parse(frame: bytes) -> Ethernet | None:
    """The Ethernet header, or None for a frame too short to have one."""
    if len(frame) < ETHERNET_BYTES:
        return None
    return Ethernet(mac_text(frame[:6]), mac_text(frame[6:12]), int.from_bytes(frame[12:14], "big"), frame[14:])


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int(word) for word in struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp(operation: int, sender_mac: str, sender_ip: str, target_mac: str, target_ip: str) -> bytes:
    """An ARP (or RARP) packet: operation 1 asks, 2 answers, 3 is the reverse request that announces a moved MAC."""
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    sender = mac_bytes(sender_mac) + ip_address(sender_ip).packed
    return head + sender + mac_bytes(target_mac) + ip_address(target_ip).packed


def parse_arp(payload: bytes) -> tuple[int, str, str, str] | None:
    """(operation, sender MAC, sender IP, target IP)."""
    if len(payload) < 28:
        return None
    return (
        int.from_bytes(payload[6:8], "big"),
        mac_text(payload[8:14]),
        str(ip_address(payload[14:18])),
        str(ip_address(payload[24:28])),
    )


def ip(packet: Packet) -> tuple[int, bytes]:
    """(ethertype, bytes) of an IPv4 or IPv6 packet."""
    source, destination = ip_address(packet.source), ip_address(packet.destination)
    if source.version == 6:
        # the IPv6 payload length is 0 for anything longer, as for a jumbogram
        length = len(packet.body) if len(packet.body) < 65536 else 0
        head = struct.pack("!IHBB", 6 << 28, length, packet.protocol, 64)
        return IPV6, head + source.packed + destination.packed + packet.body
    length = min(20 + len(packet.body), 65535)
    head = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0x4000, 64, packet.protocol, 0)
    head += source.packed + destination.packed
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return IPV4, head + packet.body


def parse_ip(ethertype: int, payload: bytes) -> Packet | None:
    """The IP packet inside a frame, or None if it is none."""
    if ethertype == IPV4 and len(payload) >= 20:
        head = (payload[0] & 0x0F) * 4
        source, destination = str(ip_address(payload[12:16])), str(ip_address(payload[16:20]))
        return Packet(source, destination, payload[9], payload[head:])
    if ethertype == IPV6 and len(payload) >= 40:
        source, destination = str(IPv6Address(payload[8:24])), str(IPv6Address(payload[24:40]))
        return Packet(source, destination, payload[6], payload[40:])
    return None


def udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source_port, destination_port, min(8 + len(payload), 65535), 0) + payload


def icmp(kind: int, identifier: int, sequence: int, payload: bytes) -> bytes:
    """An echo message: kind 8 and 0 for IPv4, 128 and 129 for IPv6."""
    body = struct.pack("!BBHHH", kind, 0, 0, identifier, sequence) + payload
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def neighbour(kind: int, target: str, mac: str) -> bytes:
    """A neighbour solicitation (135) or advertisement (136) with its link-layer option."""
    flags = 0x60000000 if kind == 136 else 0
    option = bytes([2 if kind == 136 else 1, 1]) + mac_bytes(mac)
    return struct.pack("!BBHI", kind, 0, 0, flags) + IPv6Address(target).packed + option


def tcp(source_port: int, destination_port: int, sequence: int, acknowledged: int, flags: int, data: bytes) -> bytes:
    head = struct.pack("!HHIIBBHHH", source_port, destination_port, sequence, acknowledged, 0x50, flags, 65535, 0, 0)
    return head + data


def link_local(mac: str) -> str:
    """The EUI-64 link-local address of a MAC."""
    return eui64("fe80::", mac)


def eui64(prefix: str, mac: str) -> str:
    """The EUI-64 address of a MAC in a /64."""
    raw = bytearray(mac_bytes(mac))
    raw[0] ^= 2
    host = bytes(raw[:3]) + b"\xff\xfe" + bytes(raw[3:])
    return str(IPv6Address(IPv6Address(prefix).packed[:8] + host))
