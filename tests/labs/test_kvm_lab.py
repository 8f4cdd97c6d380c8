"""The nested libvirt lab as a whole: what is up, that its networks are apart, and that nothing of it stays."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.errors import LabError
from conformance.lab.inventory import LabInventory, load
from conformance.observers.peer.client import Peer
from conformance.shells.shell import LocalShell
from labs.kvm import KvmLab, nodes
from labs.kvm.layout import Cell
from labs.libvirt_hosts.observers import LibvirtObservers
from tests.labs.conftest import CELL

pytestmark = pytest.mark.lab


def traces(cell: Cell) -> list[str]:
    """Everything of a cell that this machine shows."""
    found = [f"process {name}" for name in nodes.find(cell.mark)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(cell.dir).encode() in (process / "cmdline").read_bytes():
                found.append(f"process {process.name}")
        except OSError:
            continue
    found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if str(cell.dir) in line]
    found += [line for line in LocalShell().run(["losetup", "-a"]).text.splitlines() if str(cell.dir) in line]
    links = {
        line.split(":")[1].split("@")[0].strip() for line in LocalShell().run(["ip", "-o", "link"]).text.splitlines()
    }
    found += [f"link {name}" for name in links & {"mgmt-a", "mgmt0", "net1", "net1-up", "net1-a", "net1-peer", "jumbo"}]
    if cell.dir.exists():
        found.append(f"folder {cell.dir}")
    return found


@pytest.fixture
def other() -> Iterator[Cell]:
    """A cell that is not up; taken down whatever happens."""
    with tempfile.TemporaryDirectory(prefix="hvc-") as folder:
        cell = Cell(CELL + 1, Path(folder) / "lab")
        yield cell
        KvmLab.down(cell.number, cell.dir, print)


def test_lab_file_reads_back(lab: LabInventory, state: Path) -> None:
    assert load(state / "lab.toml") == lab
    assert [image.path.exists() for image in lab.images] == [True] * len(lab.images)
    assert KvmLab.status(CELL, state).state == "up"


def test_both_hosts_answer_on_every_transport(lab: LabInventory, state: Path, observers: LibvirtObservers) -> None:
    cell = Cell(CELL, state)
    for host in lab.hosts:
        uri = lab.target("kvm-libvirt").options["uris"][host.name]
        assert LocalShell().run(["virsh", "-c", uri, "hostname"]).text.strip() == cell.hostname(host.name)
    inside = observers.host("a").shell
    b = lab.host("b")
    for uri in (
        cell.tls_uris()["b"],
        f"qemu+tls://[{b.address6}]/system?pkipath={cell.pki}",
        f"qemu+tcp://{b.address}/system",
    ):
        assert inside.run(["virsh", "-c", uri, "hostname"]).text.strip() == cell.hostname("b"), uri
    assert (
        inside.run(["virsh", "-c", f"qemu+tls://{b.address}/system?pkipath=/nowhere", "uri"], check=False).status != 0
    )


def test_hosts_have_nothing_of_each_other(observers: LibvirtObservers) -> None:
    a, b = observers.host("a"), observers.host("b")
    with a.create_canary("hvc-only-on-a") as canary:
        assert [domain.uuid for domain in a.domains()] == [canary.uuid]
        assert b.domains() == []


def test_shared_storage_is_shared_and_local_is_not(lab: LabInventory, observers: LibvirtObservers) -> None:
    a, b = observers.host("a"), observers.host("b")
    for storage in lab.storages:
        path = str(storage.path / "mark")
        a.shell.run(["touch", path])
        try:
            assert a.exists(path)
            assert b.exists(path) == storage.shared
            assert not storage.path.joinpath("mark").exists()
        finally:
            a.shell.run(["rm", path])


@pytest.mark.parametrize("network", ["net1", "net2", "jumbo"])
def test_networks_are_apart(lab: LabInventory, observers: LibvirtObservers, network: str) -> None:
    """A station on a host reaches the peer of its own network, and that peer through no other network."""
    shell = observers.host("a").shell
    target = lab.network(network)
    station = str(target.ipv4[9])
    for where in lab.networks:
        shell.run(["ip", "addr", "add", f"{station}/24", "dev", where.bridge])
        peer = Peer(where.name, where.bridge, shell)
        try:
            answered = peer.ping(target.gateway4, payload_bytes=target.mtu - 28, dont_fragment=True)
        finally:
            peer.close()
            shell.run(["ip", "addr", "flush", "dev", where.bridge])
        assert answered == (where.name == network), where.name


def test_peer_offers_a_lease_and_a_router(lab: LabInventory, observers: LibvirtObservers) -> None:
    peer = observers.peer("net1")

    assert peer.ipv4 == lab.network("net1").gateway4
    assert peer.ipv6.startswith("fd77:0:0:1")
    assert peer.lease("52:54:00:00:00:01") is None
    assert observers.health() == []


def test_hosts_reach_nobody_in_guest_networks_by_themselves(observers: LibvirtObservers) -> None:
    for host in ("a", "b"):
        addresses = observers.host(host).shell.run(["ip", "-o", "addr"]).text
        assert {line.split()[1] for line in addresses.splitlines()} == {"lo", "mgmt0"}


def test_kvm_is_hidden_unless_it_works(lab: LabInventory, observers: LibvirtObservers) -> None:
    shown = observers.host("a").shell.run(["test", "-c", "/dev/kvm"], check=False).status == 0
    types = observers.host("a").shell.run(["virsh", "-c", "qemu:///system", "capabilities"]).text

    assert shown == lab.evidence_note.endswith("KVM")
    assert ("<domain type='kvm'" in types) == shown


def test_up_takes_over_what_is_healthy(lab: LabInventory, state: Path) -> None:
    said: list[str] = []

    assert KvmLab.up(CELL, state, said.append) == lab
    assert any("is up already" in line for line in said)


def test_up_rebuilds_what_is_broken_and_down_leaves_no_trace(other: Cell) -> None:
    KvmLab.up(other.number, other.dir, print)
    first = nodes.find(other.mark)
    LocalShell().run(["kill", "-9", str(first["peer-net1"].pid)])
    assert KvmLab.status(other.number, other.dir).state == "broken"

    inventory = KvmLab.up(other.number, other.dir, print)

    second = nodes.find(other.mark)
    assert {node.pid for node in first.values()}.isdisjoint(node.pid for node in second.values())
    assert traces(other)
    found = LibvirtObservers(inventory)
    canary = found.host("a").create_canary("hvc-running")
    canary.__enter__()
    KvmLab.down(other.number, other.dir, print)
    assert traces(other) == []
    with pytest.raises(LabError, match="is gone"):  # its own end finds no host any more
        canary.__exit__(None, None, None)
    found.close()


def test_a_runner_killed_half_way_leaves_what_down_removes(other: Cell) -> None:
    program = (
        "import sys; from pathlib import Path; from labs.kvm import KvmLab;"
        f"KvmLab.up({other.number}, Path(sys.argv[1]), lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(other.dir)], stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        for line in runner.stdout:
            if b"namespaces at" in line:
                runner.kill()
                break
    assert nodes.find(other.mark)
    assert KvmLab.status(other.number, other.dir).state == "broken"

    KvmLab.down(other.number, other.dir, print)

    assert traces(other) == []
    assert KvmLab.status(other.number, other.dir).state == "down"


def test_down_finds_a_lab_whose_folder_is_gone(other: Cell) -> None:
    nodes.start(other.mark, {"a": "hvc-a"}, other.dir / "nodes")
    LocalShell().run(["rm", "-r", str(other.dir)])

    KvmLab.down(other.number, other.dir, print)

    assert traces(other) == []


def test_hosts_outlive_a_change_of_the_machines_accounts(other: Cell) -> None:
    """Every useradd puts a new /etc/passwd in the place of the old one; a mount on the old one would be lost."""
    program = (
        "import os, shutil, sys; from pathlib import Path; from labs.kvm import KvmLab;"
        f"lab = KvmLab.up({other.number}, Path(sys.argv[1]), print);"
        "shutil.copy('/etc/passwd', '/etc/passwd.new'); os.rename('/etc/passwd.new', '/etc/passwd');"
        "observers = KvmLab.observe(lab);"
        "[observers.host(host.name).restart_management() for host in lab.hosts];"
        "print(observers.host('a').shell.run(['cat', '/etc/passwd']).text); observers.close()"
    )
    # the machine's accounts stay as they are: this one has a copy of /etc
    copied = 'cp -a /etc "$1" && mount --bind "$1/etc" /etc || exit 1; shift; exec "$@"'
    with tempfile.TemporaryDirectory(prefix="hvc-") as folder:
        command = ["unshare", "--mount", "sh", "-c", copied, "sh", folder, sys.executable, "-c", program]

        done = subprocess.run([*command, str(other.dir)], capture_output=True, text=True)

        assert done.returncode == 0, done.stderr
        assert "libvirt-qemu" in done.stdout


def test_it_comes_up_where_libvirt_never_ran(other: Cell) -> None:
    """No service made libvirt's folders there: the packages alone bring none of them below /var."""
    program = (
        "import sys; from pathlib import Path; from labs.kvm import KvmLab;"
        f"KvmLab.up({other.number}, Path(sys.argv[1]), print)"
    )
    hidden = 'for place in /var/log /var/cache; do mount -t tmpfs tmpfs "$place" || exit 1; done; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hidden, "sh", sys.executable, "-c", program, str(other.dir)]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert KvmLab.status(other.number, other.dir).state == "up"


@pytest.mark.usefixtures("lab")
def test_a_cell_is_brought_up_by_one_at_a_time(state: Path) -> None:
    handle = os.open(state, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(LabError, match="by another process"):
            KvmLab.up(CELL, state, print)
    finally:
        os.close(handle)
