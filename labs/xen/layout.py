"""What one cell of the nested Xen lab is called and where it lies: names, addresses, paths. Touches nothing."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import ClassVar

from labs.nested import cell
from labs.nested.networks import GuestNetwork

HOSTS = ("a", "b")
FIRST = "a"
"""The host on which the peers, DHCP and the shared storage are."""

LINK = "eth1"
"""The hosts' interface to each other: untagged it is the management network, which carries migrations; each guest
network is a VLAN of it."""
LINK_MTU = 9100
SSH_PORT = 22
LIBVIRT_PORT = 16509
SOCKET_PATH_MAX = 107
"""sun_path less its NUL, unix(7)."""

IMAGES = PurePosixPath("/srv/hvconform/images")


def hostname(host: str) -> str:
    return f"xen-{host}"


def address4(host: str) -> str:
    """A host's address in the management network. The same in every cell: cells cannot see each other."""
    return f"10.200.0.{HOSTS.index(host) + 1}"


def address6(host: str) -> str:
    return f"fd20:200::{HOSTS.index(host) + 1}"


def link_mac(host: str) -> str:
    return f"52:54:00:20:00:{HOSTS.index(host) + 1:02x}"


def vlan(network: GuestNetwork) -> int:
    """The tag of a guest network on the link."""
    return 100 + network.number


def storage(name: str) -> PurePosixPath:
    """Mount point of a storage, the same path on every host."""
    return PurePosixPath("/srv/hvconform") / name


def peer_folder(network: GuestNetwork) -> PurePosixPath:
    """Where the first host keeps a network's leases and DHCP log."""
    return PurePosixPath("/var/lib/hvconform") / network.node


class Cell(cell.Cell):
    """One cell of the lab."""

    kind: ClassVar[str] = "xen"

    def host_dir(self, host: str) -> Path:
        """A host's disks, its monitor's socket and what its Xen wrote to the serial port."""
        return self.dir / host
