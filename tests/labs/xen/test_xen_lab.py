"""The nested Xen lab as a whole: what is up, how it is reached, what goes wrong, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.errors import HostDown, LabError, LoginRefused
from conformance.lab.inventory import LabInventory, SshShell, load
from conformance.observers.peer.client import Peer
from conformance.shells.shell import open_shell
from conformance.waiting import until
from labs.nested import processes
from labs.xen import XenLab, clock, dom0, keys, machine, saved
from labs.xen.layout import HOSTS, Cell
from labs.xen_hosts.observers import XenObservers
from tests.labs.xen.conftest import CELL

pytestmark = pytest.mark.lab


def traces(cell: Cell) -> list[str]:
    """Everything of a cell that this machine shows."""
    found = [" ".join(words)[:80] for _, words in processes.command_lines() if str(cell.dir) in " ".join(words)]
    return found + [f"host {name}" for name in machine.find(cell.mark)] + ([str(cell.dir)] if cell.dir.exists() else [])


@pytest.fixture
def other() -> Iterator[Cell]:
    """A cell that is not up; taken down whatever happens."""
    with tempfile.TemporaryDirectory(prefix="hvc-") as folder:
        cell = Cell(CELL + 1, Path(folder) / "lab")
        yield cell
        XenLab.down(cell.number, cell.dir, print)


def test_the_lab_file_reads_back_and_the_lab_is_well(lab: LabInventory, state: Path, observers: XenObservers) -> None:
    assert load(state / "lab.toml") == lab
    assert "CONFIG_SHADOW_PAGING" in lab.evidence_note
    assert XenLab.status(CELL, state).state == "up"
    assert observers.health() == []


def test_a_lab_that_is_up_is_taken_over(lab: LabInventory, state: Path) -> None:
    before = machine.find(Cell(CELL, state).mark)

    assert XenLab.up(CELL, state, print) == lab
    assert machine.find(Cell(CELL, state).mark) == before


def test_images_are_the_same_on_both_hosts(lab: LabInventory, observers: XenObservers) -> None:
    for image in lab.images:
        assert {observers.host(host).file_hash(str(image.path)) for host in HOSTS} == {image.sha256}


def test_what_one_host_writes_the_other_reads_at_once(lab: LabInventory, observers: XenObservers) -> None:
    path = f"{lab.storages[0].path}/seen"
    assert lab.storages[0].shared
    for writer, reader in (("a", "b"), ("b", "a"), ("a", "b")):
        observers.host(writer).shell.script('echo "from $2" > "$1"', path, writer)
        assert observers.host(reader).shell.run(["cat", path]).text == f"from {writer}\n"
    observers.host("b").shell.run(["rm", path])
    assert not observers.host("a").exists(path)


def test_peers_stand_in_their_networks_and_apart(lab: LabInventory, observers: XenObservers) -> None:
    net1, net2 = (observers.peer(network.name) for network in lab.networks[:2])

    assert [net1.ipv4, net2.ipv4] == [network.gateway4 for network in lab.networks[:2]]
    assert net1.ping(net1.ipv4)
    assert not net1.ping(net2.ipv4, timeout_s=1)


def test_bridges_of_both_hosts_are_one_network(lab: LabInventory, observers: XenObservers) -> None:
    jumbo = next(network for network in lab.networks if network.mtu > 1500)
    shell = observers.host("b").shell
    peer: Peer = observers.peer(jumbo.name)
    address = str(jumbo.ipv4[-2])
    shell.script('ip addr add "$1/24" dev "$2"', address, jumbo.bridge)
    try:
        assert peer.ping(address, timeout_s=5, payload_bytes=jumbo.mtu - 28, dont_fragment=True)
        assert not peer.ping(address, timeout_s=2, payload_bytes=jumbo.mtu, dont_fragment=True)
    finally:
        shell.script('ip addr del "$1/24" dev "$2"', address, jumbo.bridge)


def test_clocks_are_right(lab: LabInventory, observers: XenObservers) -> None:
    for host in lab.hosts:
        found = clock.read(observers.host(host.name).shell)
        assert abs(found.behind) < 0.5 + found.uncertain


def test_nothing_inside_gets_out(observers: XenObservers) -> None:
    # the address at which QEMU's own network would stand for this machine
    script = "timeout 3 bash -c 'exec 3<>/dev/tcp/10.0.2.2/22'"
    assert observers.host("a").shell.script(script, check=False).status != 0


def test_another_key_is_refused(lab: LabInventory, tmp_path: Path) -> None:
    keys.write(keys.make(), tmp_path / "key")
    spec = lab.hosts[0].shell
    assert isinstance(spec, SshShell)
    shell = open_shell(spec.model_copy(update={"key_file": tmp_path / "key"}))
    try:
        with pytest.raises(LoginRefused, match="refuses the key"):
            shell.run(["true"])
    finally:
        shell.close()


def test_another_host_key_is_refused(lab: LabInventory) -> None:
    spec = lab.hosts[0].shell
    assert isinstance(spec, SshShell)
    shell = open_shell(spec.model_copy(update={"host_key": keys.make().public.decode()}))
    with pytest.raises(LoginRefused, match="host key that is not the one in the lab file"):
        shell.run(["true"])


def test_a_libvirtd_that_died_is_told_and_mended(lab: LabInventory, state: Path, observers: XenObservers) -> None:
    shell = observers.host("b").shell
    shell.run(["pkill", "-9", "-x", "libvirtd"])
    try:
        assert observers.health() == ["host b: libvirt does not answer"]
        assert "libvirt does not answer" in XenLab.status(CELL, state).detail
    finally:
        shell.script(lab.host("b").service)
        until("libvirt to answer again", lambda: observers.health() == [], seconds=60)


def test_a_full_dom0_disk_is_no_end(observers: XenObservers) -> None:
    shell = observers.host("b").shell
    # whole blocks first, then what is left of them: nothing is written to this machine's disk
    shell.script('fallocate -l "$(($(stat -f -c "%a * %S" /)))" /full', check=False, timeout_s=300)
    shell.script("dd if=/dev/zero of=/full bs=4096 oflag=append conv=notrunc 2>/dev/null", check=False, timeout_s=300)
    try:
        with pytest.raises(LabError):
            shell.script("echo x > /var/full && sync -f /var/full")
        assert observers.health() == []
    finally:
        shell.run(["rm", "-f", "/full", "/var/full"])


def test_a_second_cell_comes_up_beside_and_leaves_nothing(lab: LabInventory, other: Cell) -> None:
    second = XenLab.up(other.number, other.dir, print)

    assert second.hosts[0].shell != lab.hosts[0].shell
    XenLab.down(other.number, other.dir, print)
    assert traces(other) == []


def test_a_host_that_vanished_is_told_and_the_lab_comes_up_again(other: Cell) -> None:
    XenLab.up(other.number, other.dir, print)
    os.kill(machine.find(other.mark)["b"], signal.SIGKILL)
    until("it to be gone", lambda: set(machine.find(other.mark)), lambda left: left == {"a"}, seconds=10)

    assert XenLab.status(other.number, other.dir).detail == "b gone"
    XenLab.up(other.number, other.dir, print)
    assert XenLab.status(other.number, other.dir).state == "up"


def test_a_host_that_does_not_come_up_is_told_and_gone(other: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved.Parts, "id", property(lambda _: "broken"))
    monkeypatch.setattr(dom0.Dom0, "initrd", lambda _, into, __: into.write_bytes(b"no archive"))

    with pytest.raises(HostDown, match="did not come up: Kernel panic"):
        XenLab.up(other.number, other.dir, print)
    assert traces(other) == []
    assert XenLab.status(other.number, other.dir).state == "down"


def test_a_runner_killed_in_the_middle_leaves_what_down_clears(other: Cell) -> None:
    code = (
        "import sys; from pathlib import Path; from labs.xen import XenLab;"
        "XenLab.up(int(sys.argv[1]), Path(sys.argv[2]), lambda _: None)"
    )
    runner = subprocess.Popen([sys.executable, "-c", code, str(other.number), str(other.dir)])
    until("a host to be there", lambda: machine.find(other.mark), seconds=60, interval=0.01)
    runner.kill()
    runner.wait()
    if not other.inventory_file.exists():
        assert XenLab.status(other.number, other.dir).state == "broken"

    XenLab.down(other.number, other.dir, print)
    assert traces(other) == []
