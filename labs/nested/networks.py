"""The guest networks of the nested labs: their addresses, and what makes a bridge, a peer and a DHCP server of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

# dumb and immediate: no spanning tree to wait for, no snooping that loses groups nobody queries
BRIDGE = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
"""What `ip link add NAME` makes a guest network's bridge with."""

# a host has no business in a guest network: no address, no neighbour discovery, no filter of its own on the bridges
QUIET = (
    "for f in default all; do echo 1 > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done;"
    "echo 0 > /proc/sys/net/ipv6/conf/lo/disable_ipv6;"
    "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done"
)
"""Shell script that keeps a host out of the guest networks; to be run before its links are made."""


@dataclass(frozen=True, slots=True)
class GuestNetwork:
    """A guest network of the lab. The same addresses in every cell: cells cannot see each other."""

    name: str
    number: int
    mtu: int = 1500

    @property
    def prefix4(self) -> str:
        return f"10.77.{self.number}"

    @property
    def prefix6(self) -> str:
        return f"fd77:0:0:{self.number}"

    @property
    def peer4(self) -> str:
        """The peer: gateway, DHCP and DNS server of the network."""
        return f"{self.prefix4}.1"

    @property
    def peer6(self) -> str:
        return f"{self.prefix6}::1"

    @property
    def peer_interface(self) -> str:
        return "eth0"

    @property
    def node(self) -> str:
        return f"peer-{self.name}"


NETWORKS = (GuestNetwork("net1", 1), GuestNetwork("net2", 2), GuestNetwork("jumbo", 3, mtu=9000))


def peer_links(network: GuestNetwork) -> list[str]:
    """Lines for `ip -batch` that give the peer's interface its addresses."""
    return [
        f"addr add {network.peer4}/24 dev {network.peer_interface}",
        f"addr add {network.peer6}/64 dev {network.peer_interface} nodad",
        f"link set {network.peer_interface} up",
    ]


def dnsmasq(network: GuestNetwork, folder: PurePath, lease_file: str) -> list[str]:
    """The command of the network's DHCP, DNS and router advertisements; it daemonizes once it serves.

    Args:
        folder: Where its PID and log go.
        lease_file: Its own record of its leases.
    """
    return [
        "dnsmasq",
        "--conf-file=/dev/null",
        "--user=root",
        "--no-hosts",
        "--no-resolv",
        "--no-ping",
        f"--interface={network.peer_interface}",
        "--bind-interfaces",
        "--domain=hvconform.test",
        f"--address=/peer.hvconform.test/{network.peer4}",
        f"--dhcp-range={network.prefix4}.20,{network.prefix4}.250,255.255.255.0,10m",
        "--dhcp-authoritative",
        f"--dhcp-option=option:mtu,{network.mtu}",
        f"--dhcp-leasefile={lease_file}",
        f"--pid-file={folder / 'dnsmasq.pid'}",
        f"--log-facility={folder / 'dnsmasq.log'}",
        "--log-dhcp",
        "--enable-ra",
        f"--dhcp-range=::,constructor:{network.peer_interface},slaac,10m",
        f"--ra-param={network.peer_interface},mtu:{network.mtu},10,600",
    ]


def entry(network: GuestNetwork, peer: dict[str, Any], lease_file: str) -> dict[str, Any]:
    """The network as a table of a lab file; `peer` is the shell of whoever stands in it."""
    return {
        "name": network.name,
        "bridge": network.name,
        "ipv4": f"{network.prefix4}.0/24",
        "ipv6": f"{network.prefix6}::/64",
        "gateway4": network.peer4,
        "dns": network.peer4,
        "mtu": network.mtu,
        "peer": peer,
        "peer_interface": network.peer_interface,
        "lease_file": lease_file,
    }
