"""The networks of the nested hosts: VLANs of their link, a bridge for each, peers with DHCP on the first host."""

from __future__ import annotations

from conformance.shells.shell import Shell
from labs.nested.networks import BRIDGE, NETWORKS, QUIET, GuestNetwork, dnsmasq, peer_links
from labs.xen.layout import FIRST, LINK, LINK_MTU, address4, address6, peer_folder, vlan


def build(host: str, shell: Shell) -> None:
    """Make a host's bridges, and on the first host the peers."""
    shell.script(f"{QUIET}; echo 0 > /proc/sys/net/ipv6/conf/{LINK}/disable_ipv6")
    lines = [
        f"link set {LINK} mtu {LINK_MTU} up",
        f"addr add {address4(host)}/24 dev {LINK}",
        f"addr add {address6(host)}/64 dev {LINK} nodad",
    ]
    for network in NETWORKS:
        name, mtu = network.name, network.mtu
        lines += [
            f"link add {name} {BRIDGE}",
            f"link add link {LINK} name {name}-up mtu {mtu} type vlan id {vlan(network)}",
            f"link set {name}-up master {name}",
            f"link set {name} mtu {mtu}",
            f"link set {name}-up up",
            f"link set {name} up",
        ]
        if host == FIRST:
            lines.append(f"netns add {network.node}")
    _batch(shell, [], lines)
    if host == FIRST:
        for network in NETWORKS:
            _peer(shell, network)


def lease_file(network: GuestNetwork) -> str:
    """dnsmasq's own record of its leases, on the first host."""
    return str(peer_folder(network) / "leases")


def _peer(shell: Shell, network: GuestNetwork) -> None:
    inside = ["ip", "netns", "exec", network.node]
    mtu, port = network.mtu, f"{network.name}-peer"
    # made inside, as the host has an interface of that name; PID 1 is in the host's own namespace
    link = f"link add {network.peer_interface} mtu {mtu} type veth peer name {port} mtu {mtu} netns 1"
    _batch(shell, inside, ["link set lo up", link, *peer_links(network)])
    _batch(shell, [], [f"link set {port} master {network.name}", f"link set {port} up"])
    folder = peer_folder(network)
    shell.run(["mkdir", "-p", str(folder)])
    shell.run([*inside, *dnsmasq(network, folder, lease_file(network))])


def _batch(shell: Shell, prefix: list[str], lines: list[str]) -> None:
    shell.run([*prefix, "ip", "-batch", "-"], input="\n".join([*lines, ""]).encode())
