"""Two network namespaces with a cable between them: one for the peer, one for a fake guest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.observers.peer.client import Peer, PeerChannel, eui64
from conformance.shells.shell import LocalShell
from conformance.waiting import until

GUEST_MAC = "02:68:76:00:00:02"
PEER_MAC = "02:68:76:00:00:01"


class NetnsShell(LocalShell):
    """Commands in the network namespace of a process."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid = pid
        self._prefix = ("nsenter", "-t", str(pid), "-n", "--")


@contextmanager
def netns() -> Iterator[NetnsShell]:
    """A network namespace without a name: it vanishes with this process, however that ends."""
    holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE)
    own = Path("/proc/self/ns/net").readlink()
    try:
        until("the namespace", lambda: Path(f"/proc/{holder.pid}/ns/net").readlink() != own, seconds=10)
        yield NetnsShell(holder.pid)
    finally:
        holder.communicate()


@dataclass(frozen=True)
class Wire:
    """The cable. The peer's end is `peer0`, the guest's `guest0`."""

    peer: NetnsShell
    guest: NetnsShell
    guest_ipv4: str = "10.98.76.2"
    guest_ipv6: str = eui64(GUEST_MAC)

    def open_peer(self, lease_file: Path | None = None) -> Peer:
        return Peer("cable", "peer0", self.peer, lease_file=str(lease_file or ""), python=sys.executable)


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    with netns() as peer, netns() as guest:
        wire = Wire(peer, guest)
        link = ["ip", "link", "add", "peer0", "address", PEER_MAC, "type", "veth"]
        peer.run([*link, "peer", "name", "guest0", "address", GUEST_MAC, "netns", str(guest.pid)])
        for shell, interface, address in ((peer, "peer0", "10.98.76.1/24"), (guest, "guest0", "10.98.76.2/24")):
            # without duplicate address detection the addresses can be used at once
            shell.script('echo 0 > /proc/sys/net/ipv6/conf/"$1"/accept_dad', interface)
            shell.run(["ip", "addr", "add", address, "dev", interface])
            shell.run(["ip", "link", "set", interface, "up"])
        yield wire


@pytest.fixture(scope="session")
def guest(wire: Wire) -> Iterator[None]:
    """The fake guest, running."""
    process = wire.guest.popen([sys.executable, str(Path(__file__).with_name("fake_guest.py"))])
    try:
        assert process.stdout.read(2) == b"up"
        yield
    finally:
        process.close()


@pytest.fixture
def peer(wire: Wire) -> Iterator[Peer]:
    peer = wire.open_peer()
    yield peer
    peer.close()


@pytest.fixture
def channel(peer: Peer, guest: None) -> PeerChannel:  # noqa: ARG001 - it only has to be there
    return PeerChannel(peer, GUEST_MAC)
