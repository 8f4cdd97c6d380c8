"""The lab's networks: a switch in its own namespace, a bridge a network on every host, a peer with DHCP in each."""

from __future__ import annotations

from collections.abc import Mapping

from conformance.shells.shell import LocalShell
from labs.kvm.layout import HOSTS, MANAGEMENT, Cell
from labs.kvm.nodes import Node
from labs.nested.networks import BRIDGE, NETWORKS, QUIET, GuestNetwork, dnsmasq, peer_links


def build(cell: Cell, nodes: Mapping[str, Node]) -> None:
    """Link the nodes. Each pair is made inside its two namespaces, so nothing appears in the machine's own."""
    switch = nodes["switch"]
    lines = [
        f"link add {MANAGEMENT} netns {nodes[h].pid} type veth peer name mgmt-{h} netns {switch.pid}" for h in HOSTS
    ]
    for network in NETWORKS:
        lines += [
            f"link add {network.name}-up mtu {network.mtu} netns {nodes[host].pid} type veth"
            f" peer name {network.name}-{host} mtu {network.mtu} netns {switch.pid}"
            for host in HOSTS
        ]
        lines.append(
            f"link add {network.peer_interface} mtu {network.mtu} netns {nodes[network.node].pid} type veth"
            f" peer name {network.name}-peer mtu {network.mtu} netns {switch.pid}"
        )
    _batch(None, lines)
    _switch(switch)
    for host in HOSTS:
        _host(cell, host, nodes[host])
    for network in NETWORKS:
        _peer(network, nodes[network.node])


def _switch(node: Node) -> None:
    lines = [f"link add {name} {BRIDGE}" for name in ("mgmt", *(network.name for network in NETWORKS))]
    lines += [f"link set {network.name} mtu {network.mtu}" for network in NETWORKS]
    ports = [("mgmt", f"mgmt-{host}") for host in HOSTS]
    ports += [(network.name, f"{network.name}-{end}") for network in NETWORKS for end in (*HOSTS, "peer")]
    for bridge, port in ports:
        lines += [f"link set {port} master {bridge}", f"link set {port} up"]
    lines += [f"link set {name} up" for name in ("mgmt", *(network.name for network in NETWORKS))]
    _quiet(node)
    _batch(node, lines)


def _host(cell: Cell, host: str, node: Node) -> None:
    lines = []
    for network in NETWORKS:
        lines += [
            f"link add {network.name} {BRIDGE}",
            f"link set {network.name}-up master {network.name}",
            f"link set {network.name} mtu {network.mtu}",
            f"link set {network.name}-up up",
            f"link set {network.name} up",
        ]
    lines += [
        f"addr add {cell.address4(host)}/24 dev {MANAGEMENT}",
        f"addr add {cell.address6(host)}/64 dev {MANAGEMENT} nodad",
        f"link set {MANAGEMENT} up",
    ]
    _quiet(node)
    node.shell.script(f"echo 0 > /proc/sys/net/ipv6/conf/{MANAGEMENT}/disable_ipv6")
    _batch(node, lines)


def _quiet(node: Node) -> None:
    node.shell.script(QUIET)


def _peer(network: GuestNetwork, node: Node) -> None:
    _batch(node, peer_links(network))


def start_dhcp(cell: Cell, network: GuestNetwork, node: Node) -> None:
    """Start the network's DHCP, DNS and router advertisements; it daemonizes once it serves."""
    folder = cell.dir / network.node
    folder.mkdir(parents=True, exist_ok=True)
    node.shell.run(dnsmasq(network, folder, lease_file(cell, network)))


def lease_file(cell: Cell, network: GuestNetwork) -> str:
    """dnsmasq's own record of its leases."""
    return str(cell.dir / network.node / "leases")


def _batch(node: Node | None, lines: list[str]) -> None:
    shell = LocalShell() if node is None else node.shell
    shell.run(["ip", "-batch", "-"], input="\n".join(lines).encode())
