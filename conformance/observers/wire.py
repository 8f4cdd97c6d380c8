"""What a wire peer can be asked: it stands in one guest network and sends, sniffs, forges and measures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StreamReport:
    """A sequenced stream between the peer and a guest, seen from the peer.

    `longest_gap_ms` is the longest time without an arrival (not a sum of losses). `reset` is whether a TCP connection
    was reset or closed by the other side. `restarts` counts changes of the sender's boot id.
    """

    received: int
    lost: int
    duplicates: int
    reordered: int
    longest_gap_ms: float
    corrupted: int = 0
    reset: bool = False
    restarts: int = 0
    monotonic_backwards: int = 0
    longest_guest_gap_ms: float = 0.0


class Stream(Protocol):
    """A running measurement."""

    def report(self) -> StreamReport:
        """What was seen so far."""
        ...


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame seen on the wire. Addresses are lower-case; `payload` is everything after the Ethernet header."""

    time_s: float
    source: str
    destination: str
    ethertype: int
    payload: bytes


class Sniffer(Protocol):
    """A running capture."""

    def frames(self) -> Sequence[Frame]:
        """What was seen so far, oldest first."""
        ...


class WirePeer(Protocol):
    """A peer in one guest network. Raises `ProbeFailed` when it cannot do what it was asked."""

    @property
    def network(self) -> str: ...

    @property
    def mac(self) -> str: ...

    @property
    def ipv4(self) -> str: ...

    @property
    def ipv6(self) -> str: ...

    def ping(
        self, address: str, *, timeout_s: float = 1.0, payload_bytes: int = 56, dont_fragment: bool = False
    ) -> bool:
        """Whether an ICMP echo (v4 or v6) is answered. `payload_bytes` excludes the IP and ICMP headers."""
        ...

    def lease(self, mac: str) -> str | None:
        """The IPv4 address that the network's DHCP server gave to this MAC, from the server's own records."""
        ...

    def tcp_stream(self, address: str, *, interval_ms: int = 10) -> AbstractContextManager[Stream]:
        """A sequenced, checksummed TCP stream both ways with the guest agent's stream port."""
        ...

    def heartbeats(self, boot_token: str) -> AbstractContextManager[Stream]:
        """Sequenced UDP heartbeats that a guest sends to this peer; `boot_token` selects the guest (its SMBIOS UUID).
        Start them with `Guest.start_heartbeat(peer address, ...)`."""
        ...

    @property
    def heartbeat_port(self) -> int:
        """The UDP port on which heartbeats are received."""
        ...

    def sniff(self, *, source: str = "", destination: str = "") -> AbstractContextManager[Sniffer]:
        """Capture frames on this network, by source or destination MAC; empty matches all."""
        ...

    def send_frame(self, frame: bytes) -> None:
        """Send a raw Ethernet frame."""
        ...
