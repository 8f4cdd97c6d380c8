"""What one cell of the nested libvirt lab is called and where it lies: names, addresses, paths. Touches nothing."""

from __future__ import annotations

import uuid
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from labs.nested import cell
from labs.nested.networks import NETWORKS

HOSTS = ("a", "b")
MANAGEMENT = "mgmt0"
"""The hosts' interface in the management network, which also carries migrations."""

TCP_PORT = 16509
TLS_PORT = 16514
MIGRATION_PORTS = (49152, 49215)

SOCKET_PATH_MAX = 107
"""sun_path less its NUL, unix(7)."""


class Cell(cell.Cell):
    """One cell of the lab."""

    kind: ClassVar[str] = "kvm"

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """The sets of namespaces: a switch, the hosts, a peer in every guest network."""
        return ("switch", *HOSTS, *(network.node for network in NETWORKS))

    @property
    def images(self) -> Path:
        return self.dir / "images"

    @property
    def pki(self) -> Path:
        return self.dir / "pki"

    def storage(self, name: str) -> Path:
        """Mount point of a storage, the same path on every host."""
        return self.dir / "storage" / name

    def host_dir(self, host: str) -> Path:
        """A host's private files: etc, run, lib, log, cache of libvirt."""
        return self.dir / host

    def socket(self, host: str) -> Path:
        """libvirtd's socket, which the host sees as /run/libvirt/libvirt-sock."""
        return self.host_dir(host) / "run" / "libvirt-sock"

    def hostname(self, node: str) -> str:
        return f"hvc{self.number}-{node}"

    def host_uuid(self, host: str) -> str:
        # libvirt refuses to migrate between hosts with one UUID, which two hosts with one SMBIOS have
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"hvconform:{self.dir}:{host}"))

    def address4(self, host: str) -> str:
        return f"10.200.0.{HOSTS.index(host) + 1}"

    def address6(self, host: str) -> str:
        return f"fd20:200::{HOSTS.index(host) + 1}"

    def uris(self) -> dict[str, str]:
        """Connections from this machine, by unix socket."""
        return {host: f"qemu+unix:///system?socket={self.socket(host)}" for host in HOSTS}

    def tls_uris(self) -> dict[str, str]:
        """Connections between the hosts, over the management network; they resolve on the hosts only."""
        return {host: f"qemu+tls://{self.hostname(host)}/system?pkipath={self.pki}" for host in HOSTS}

    def tcp_uris(self) -> dict[str, str]:
        return {host: f"qemu+tcp://{self.hostname(host)}/system" for host in HOSTS}
