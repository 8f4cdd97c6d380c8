"""Ethernet frames to forge: built with scapy, so that every checksum is right and only the lie is a lie."""

from __future__ import annotations

BROADCAST = "ff:ff:ff:ff:ff:ff"


def udp(
    *, source_mac: str, destination_mac: str = BROADCAST, source_ip: str, destination_ip: str, payload: bytes
) -> bytes:
    """An IPv4 UDP datagram to the discard port in a frame of its own."""
    # scapy takes half a second to import, and only the forging tests should pay for it
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    frame = (
        Ether(src=source_mac, dst=destination_mac)
        / IP(src=source_ip, dst=destination_ip)
        / UDP(sport=9, dport=9)
        / payload
    )
    return bytes(frame)


def arp_claim(*, source_mac: str, claimed_mac: str, claimed_ip: str) -> bytes:
    """A broadcast ARP reply that says: `claimed_ip` is at `claimed_mac`."""
    from scapy.layers.l2 import ARP, Ether

    frame = Ether(src=source_mac, dst=BROADCAST) / ARP(
        op=2, hwsrc=claimed_mac, psrc=claimed_ip, hwdst=BROADCAST, pdst=claimed_ip
    )
    return bytes(frame)
