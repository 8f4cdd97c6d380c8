"""Observers of a lab of Hyper-V hosts: probes over WinRM, wire peers on a Linux machine in each guest network."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.errors import LabError, LabFileError, ProbeFailed
from conformance.lab.inventory import LabInventory, Network, WinrmShell
from conformance.lab.lab import Observers
from conformance.model import Evidence
from conformance.observers.guest import Channel
from conformance.observers.host import ask_all
from conformance.observers.peer.client import Peer, PeerChannel
from conformance.shells.shell import Shell, open_shell
from labs.hyperv_double import marker
from labs.hyperv_hosts.probe import HypervHostProbe
from labs.hyperv_hosts.session import Session, url_of


class HypervObservers(Observers):
    """Everything is opened at first use and kept until `close`."""

    def __init__(self, inventory: LabInventory) -> None:
        self._lab = inventory
        self._probes: dict[str, HypervHostProbe] = {}
        self._shells: dict[str, Shell] = {}
        self._peers: dict[str, Peer] = {}
        for host in inventory.hosts:
            if not isinstance(host.shell, WinrmShell):
                raise LabFileError(
                    f"host {host.name}: the probe of a Hyper-V host needs a shell of kind winrm",
                    hint='shell = { kind = "winrm", url = "https://hv1:5986/wsman", user = "..." }',
                )
            if inventory.evidence is Evidence.HARDWARE:
                marker.refuse(url_of(host.shell))

    def host(self, name: str) -> HypervHostProbe:
        if name not in self._probes:
            self._probes[name] = probe(self._lab, name)
        return self._probes[name]

    def peer(self, network: str) -> Peer:
        if network not in self._peers:
            found = self._lab.network(network)
            leases = "" if found.lease_file is None else str(found.lease_file)
            self._peers[network] = Peer(network, found.peer_interface, self._peer_shell(found), lease_file=leases)
        return self._peers[network]

    def _peer_shell(self, network: Network) -> Shell:
        if network.name not in self._shells:
            self._shells[network.name] = open_shell(network.peer)
        return self._shells[network.name]

    def network_channel(self, network: str, mac: str) -> Channel:
        return PeerChannel(self.peer(network), mac)

    def serial_channel(self, uuid: str) -> Channel:
        raise ProbeFailed(
            f"the serial console of {uuid} is a named pipe on its host, which takes one reader: the driver's",
            hint="docs/labs/hyperv.md, what cannot be observed",
        )

    def health(self) -> Sequence[str]:
        probes = [self.host(host.name) for host in self._lab.hosts]
        hosts = [line for lines in ask_all(probes, lambda each: each.health()) for line in lines]
        return [*hosts, *(line for network in self._lab.networks for line in self._peer_health(network))]

    def _peer_health(self, network: Network) -> list[str]:
        try:
            there = self._peer_shell(network).script(
                '[ -d "/sys/class/net/$1" ]', network.peer_interface, check=False, timeout_s=20
            )
        except LabError as error:
            return [f"peer of {network.name}: {error}"]
        return [] if there.status == 0 else [f"peer of {network.name}: there is no interface {network.peer_interface}"]

    def close(self) -> None:
        for peer in self._peers.values():
            peer.close()
        for each in self._probes.values():
            each.close()
        for shell in self._shells.values():
            shell.close()
        self._peers.clear()
        self._probes.clear()
        self._shells.clear()


def probe(lab: LabInventory, name: str) -> HypervHostProbe:
    """The probe of one host, with a session of its own."""
    host = lab.host(name)
    assert isinstance(host.shell, WinrmShell)
    return HypervHostProbe(lab, host, Session(name, host.shell))
