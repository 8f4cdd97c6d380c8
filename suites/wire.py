"""What several suites look for on the wire."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from conformance.machine import Machine
from conformance.model import NicSpec
from conformance.observers.frames import udp
from conformance.observers.host import ask_all
from conformance.observers.wire import Sniffer
from conformance.waiting import until

IP_UDP_HEADERS = 28
"""Bytes of an IPv4 packet that are not UDP payload."""

FOREIGN_MAC = "02:00:00:00:be:ef"


def seen(sniffer: Sniffer, token: bytes) -> bool:
    return any(token in frame.payload for frame in sniffer.frames())


def token() -> bytes:
    return b"hvconform-" + secrets.token_hex(8).encode()


def wait_ping(
    machine: Machine, address: str, payload_bytes: int = 56, *, nic: NicSpec | None = None, seconds: float | None = None
) -> None:
    """Wait until the machine answers a ping in one piece, by default as long as it may take to settle; lost ones are
    sent again."""
    peer = machine.peer if nic is None else machine.peer_on(nic)
    until(
        f"a ping of {payload_bytes} bytes to be answered",
        lambda: peer.ping(address, timeout_s=0.5, payload_bytes=payload_bytes, dont_fragment=True),
        seconds=machine.pace.settle if seconds is None else seconds,
    )


def wait_echo(machine: Machine, address: str, payload_bytes: int = 32, *, nic: NicSpec | None = None) -> None:
    """Wait until another guest or the peer sends a packet back to the machine's guest; lost ones are sent again."""
    guest = machine.guest if nic is None else machine.guest_on(nic)
    until(
        f"{address} to send {payload_bytes} bytes back to the guest",
        lambda: guest.echo(address, payload_bytes),
        seconds=machine.pace.settle,
    )


def silent(machine: Machine, address: str) -> bool:
    """Whether the machine answers neither a ping nor a request to its agent, both listened for as long as a glance."""
    glance = machine.pace.glance
    asks: Sequence[Callable[[], bool]] = (
        lambda: machine.peer.ping(address, timeout_s=glance),
        lambda: machine.guest.answers(timeout_s=glance),
    )
    return not any(ask_all(asks, lambda ask: ask()))


def passes(machine: Machine, frame: bytes, mark: bytes) -> bool:
    """Whether a frame that the guest sends arrives at the peer; an honest frame sent after it is the clock."""
    honest = token()
    with machine.peer.sniff() as sniffer:
        machine.guest.send_frame(machine.mac, frame)
        machine.guest.send_frame(
            machine.mac,
            udp(
                source_mac=machine.mac,
                destination_mac=machine.peer.mac,
                source_ip=machine.address(),
                destination_ip=machine.peer.ipv4,
                payload=honest,
            ),
        )
        until("the honest frame", lambda: seen(sniffer, honest), seconds=machine.pace.settle)
        return seen(sniffer, mark)


def forged_mac(machine: Machine, mark: bytes) -> bytes:
    """A broadcast with a source MAC that is not the VM's."""
    return udp(source_mac=FOREIGN_MAC, source_ip=machine.address(), destination_ip="255.255.255.255", payload=mark)
