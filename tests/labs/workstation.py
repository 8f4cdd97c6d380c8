"""A user's workstation beside a nested lab: it reaches the hosts and the peers as one reaches machines of one's own.

It is a node of the cell with a leg in the management network and nothing else. The hosts and peers get an SSH server
each, and a lab file of kind `libvirt` describes them without a namespace, a unix socket or anything else of the cell.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.lab.inventory import LabInventory
from conformance.shells.shell import Completed, LocalShell, NamespaceShell
from conformance.waiting import until
from labs.kvm import nodes
from labs.kvm.layout import HOSTS, MANAGEMENT, NETWORKS, Cell
from labs.nested.cell import toml

NAME = "station"
ADDRESS = "10.200.0.100"
PEER_ADDRESSES = {network.name: f"10.200.0.{10 + network.number}" for network in NETWORKS}
SSHD = "/usr/sbin/sshd"


@dataclass(frozen=True)
class Workstation:
    """The machine that a user sits at.

    Args:
        shell: Commands on it.
        cell: The nested lab.
        lab: The nested lab as it describes itself.
        home: Its root's home: the SSH key, known_hosts, the client's certificates, the state of hvconform.
    """

    shell: NamespaceShell
    cell: Cell
    lab: LabInventory
    home: Path

    @property
    def key(self) -> Path:
        return self.home / ".ssh" / "id_ed25519"

    def uri(self, host: str, how: str) -> str:
        """The libvirt URI of a host: by ``"ssh"`` at its address, or by ``"tls"`` at its name."""
        if how == "ssh":
            return f"qemu+ssh://root@{self.lab.host(host).address}/system"
        return f"qemu+tls://{self.cell.hostname(host)}/system?pkipath={self.cell.pki}"

    def lab_file(self, name: str, options: Mapping[str, Any], **shells: Any) -> Path:
        """Write a user's lab file.

        Args:
            name: The lab's, and the file's.
            options: Of its target, besides those that the nested lab has.
            shells: Changes of keys of every SSH shell in it.
        """

        def shell(address: str) -> dict[str, Any]:
            return {"kind": "ssh", "address": address, "user": "root", "key_file": self.key} | shells

        data = self.lab.model_dump(mode="json", by_alias=True, exclude_none=True)
        del data["state_dir"]
        data |= {"name": name, "kind": "libvirt"}
        for host in data["host"]:
            host["shell"] = shell(host["address"])
        for network in data["network"]:
            network["peer"] = shell(PEER_ADDRESSES[network["name"]])
        data["target"][0]["options"] |= options
        path = self.home / f"{name}.toml"
        path.write_text(toml(LabInventory.model_validate(data)), encoding="utf-8")
        return path

    def hvconform(self, *arguments: str, timeout_s: float = 240.0, **environment: str) -> Completed:
        """Run the command line there; what it keeps is in its home."""
        program = "from conformance.cli import main; main()"
        return self.shell.run(self.python("-c", program, *arguments, **environment), check=False, timeout_s=timeout_s)

    def python(self, *arguments: str, **environment: str) -> Sequence[str]:
        """The interpreter's command line, with its environment."""
        own = {"HOME": str(self.home), "HVCONFORM_STATE": str(self.home / "state"), "PATH": os.environ["PATH"]}
        words = [f"{name}={value}" for name, value in (own | environment).items()]
        return ["env", "-C", str(self.home), *words, sys.executable, *arguments]


@contextmanager
def beside(cell: Cell, lab: LabInventory) -> Iterator[Workstation]:
    """Set a workstation up beside a cell that is up; at the end the cell is as it was."""
    home = cell.dir / NAME
    living = nodes.find(cell.mark)
    try:
        living |= nodes.start(cell.mark, {NAME: cell.hostname(NAME)}, cell.dir / "nodes")
        _link(living)
        here = Workstation(living[NAME].shell, cell, lab, home)
        _home(here)
        _serve(here, living)
        yield here
    finally:
        _remove(cell, lab, living)


def _link(living: Mapping[str, nodes.Node]) -> None:
    addresses = {NAME: ADDRESS} | {network.node: PEER_ADDRESSES[network.name] for network in NETWORKS}
    lines = []
    for name in addresses:
        lines.append(
            f"link add {MANAGEMENT} netns {living[name].pid} type veth"
            f" peer name mgmt-{name} netns {living['switch'].pid}"
        )
    LocalShell().run(["ip", "-batch", "-"], input="\n".join(lines).encode())
    for name, address in addresses.items():
        # a peer must not become a way from one network to another
        living[name].shell.script("echo 0 > /proc/sys/net/ipv4/ip_forward")
        living[name].shell.run(["ip", "addr", "add", f"{address}/24", "dev", MANAGEMENT])
        living[name].shell.run(["ip", "link", "set", MANAGEMENT, "up"])
        living["switch"].shell.run(["ip", "link", "set", f"mgmt-{name}", "master", "mgmt", "up"])


def _home(here: Workstation) -> None:
    (here.home / ".ssh").mkdir(parents=True, mode=0o700)
    (here.home / "ssh").mkdir()
    for path in (here.key, here.home / "ssh" / "host"):
        LocalShell().run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)])
    key = (here.home / "ssh" / "host.pub").read_text()
    (here.home / ".ssh" / "known_hosts").write_text(
        "".join(f"{address} {key}" for address in _served(here.lab).values())
    )
    names = [f"{here.cell.address4(host)} {here.cell.hostname(host)}\n" for host in HOSTS]
    (here.home / "hosts").write_text("127.0.0.1 localhost\n" + "".join(names))
    # ssh takes its home from the password file, not from the environment
    lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    text = "".join(
        ":".join([*line[:5], str(here.home) if line[0] == "root" else line[5], *line[6:]]) + "\n" for line in lines
    )
    (here.home / "passwd").write_text(text)
    (here.home / "upper").mkdir()
    (here.home / "work").mkdir()
    overlay = 'mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" overlay /etc'
    here.shell.script(f'{overlay} && cp "$1/hosts" "$1/passwd" /etc', str(here.home))


def _serve(here: Workstation, living: Mapping[str, nodes.Node]) -> None:
    folder = here.home / "ssh"
    (folder / "authorized").write_text((here.home / ".ssh" / "id_ed25519.pub").read_text())
    for name, address in _served(here.lab).items():
        config, pid = folder / f"{name}.config", folder / f"{name}.pid"
        config.write_text(
            f"ListenAddress {address}\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'authorized'}\n"
            f"PidFile {pid}\nUsePAM no\nPasswordAuthentication no\nStrictModes no\nPermitRootLogin yes\n"
        )
        start = f'mkdir -p /run/sshd && exec {SSHD} -f "$1" -E "$2"'
        living[name].shell.script(start, str(config), str(folder / f"{name}.log"))
        until(f"sshd of {name} to listen", pid.exists, seconds=10)


def _served(lab: LabInventory) -> dict[str, str]:
    """The nodes with an SSH server, and where it listens."""
    peers = {network.node: PEER_ADDRESSES[network.name] for network in NETWORKS}
    return {host.name: host.address for host in lab.hosts} | peers


def _remove(cell: Cell, lab: LabInventory, living: Mapping[str, nodes.Node]) -> None:
    folder = cell.dir / NAME
    for name in _served(lab):
        living[name].shell.script('[ ! -e "$1" ] || kill "$(cat "$1")"', str(folder / "ssh" / f"{name}.pid"))
    for network in NETWORKS:
        living[network.node].shell.run(["ip", "link", "del", MANAGEMENT], check=False)
    if NAME in living:
        LocalShell().run(["kill", "-9", str(living[NAME].holder)])
        until("the workstation to be gone", lambda: NAME not in nodes.find(cell.mark), seconds=10)
    shutil.rmtree(folder, ignore_errors=True)
