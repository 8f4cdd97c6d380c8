"""Observers of any lab whose hosts are behind a shell: nested, or a user's own over SSH."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from conformance.errors import LabError
from conformance.lab import inventory as lab_file
from conformance.lab.inventory import Host, LabInventory, Network
from conformance.lab.lab import Observers
from conformance.observers.guest import Channel
from conformance.observers.peer.client import Peer, PeerChannel
from conformance.shells.shell import Shell, open_shell
from conformance.shells.ssh import SshShell
from labs.hosts.probe import ShellHostProbe
from labs.hosts.serial import SerialChannel

_PEER_HEALTH = """
[ -d "/sys/class/net/$1" ] || { echo "there is no interface $1"; exit 0; }
read -r flags < "/sys/class/net/$1/flags"
[ "$((flags & 1))" = 1 ] || echo "the interface $1 is down"
[ -z "$2" ] && exit 0
grep -qsx dnsmasq /proc/[0-9]*/comm || echo "no dnsmasq runs"
"""


_PATIENCE_S = 60.0  # a peer may be in an emulated host

Probe = TypeVar("Probe", bound=ShellHostProbe)


class HostObservers(Observers, Generic[Probe]):
    """Everything is opened at first use and kept until `close`."""

    def __init__(self, inventory: LabInventory) -> None:
        self._lab = inventory
        self._shells: list[Shell] = []
        self._machines: dict[lab_file.SshShell, SshShell] = {}
        self._probes: dict[str, Probe] = {}
        self._peer_shells: dict[str, Shell] = {}
        self._peers: dict[str, Peer] = {}
        self._serials: dict[str, SerialChannel] = {}

    @abstractmethod
    def probe(self, lab: LabInventory, host: Host, shell: Shell) -> Probe:
        """The probe of a host, by the hypervisor that runs there."""

    def host(self, name: str) -> Probe:
        if name not in self._probes:
            host = self._lab.host(name)
            shell = self._open(host.shell)
            self._shells.append(shell)
            self._probes[name] = self.probe(self._lab, host, shell)
        return self._probes[name]

    def peer(self, network: str) -> Peer:
        if network not in self._peers:
            found = self._lab.network(network)
            leases = "" if found.lease_file is None else str(found.lease_file)
            self._peers[network] = Peer(network, found.peer_interface, self._peer_shell(found), lease_file=leases)
        return self._peers[network]

    def network_channel(self, network: str, mac: str) -> Channel:
        return PeerChannel(self.peer(network), mac)

    def serial_channel(self, uuid: str) -> Channel:
        if uuid not in self._serials:
            self._serials[uuid] = SerialChannel(self._all, uuid)
        return self._serials[uuid]

    def revive(self) -> Sequence[str]:
        return [said for probe in self._all() if (said := probe.revive())]

    def health(self) -> Sequence[str]:
        checks = [probe.health for probe in self._all()]
        with ThreadPoolExecutor(len(checks) + len(self._lab.networks)) as pool:
            hosts = [pool.submit(check) for check in checks]
            peers = [pool.submit(self._peer_health, network) for network in self._lab.networks]
            return [line for done in (*hosts, *peers) for line in done.result()]

    def close(self) -> None:
        for serial in self._serials.values():
            serial.close()
        for peer in self._peers.values():
            peer.close()
        for shell in self._shells:
            shell.close()
        for kept in (self._serials, self._peers, self._probes, self._peer_shells, self._shells, self._machines):
            kept.clear()

    def _open(self, spec: lab_file.Shell) -> Shell:
        """A shell; those in namespaces of one machine share a connection."""
        if not isinstance(spec, lab_file.SshShell):
            return open_shell(spec)
        whole = spec.model_copy(update={"netns": ""})
        if whole not in self._machines:
            self._machines[whole] = SshShell(whole)
            self._shells.append(self._machines[whole])
        return SshShell(spec, self._machines[whole]) if spec.netns else self._machines[whole]

    def _all(self) -> list[Probe]:
        return [self.host(host.name) for host in self._lab.hosts]

    def _peer_shell(self, network: Network) -> Shell:
        if network.name not in self._peer_shells:
            self._peer_shells[network.name] = shell = self._open(network.peer)
            self._shells.append(shell)
        return self._peer_shells[network.name]

    def _peer_health(self, network: Network) -> list[str]:
        served = "dnsmasq" if network.lease_file is not None else ""
        try:
            done = self._peer_shell(network).script(_PEER_HEALTH, network.peer_interface, served, timeout_s=_PATIENCE_S)
        except LabError as error:
            return [f"peer of {network.name}: {error}"]
        return [f"peer of {network.name}: {line}" for line in done.text.splitlines()]
