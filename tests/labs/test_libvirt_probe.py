"""The host probe against real libvirt: what it sees, that it stays the same at rest, and that every fault fires."""

from __future__ import annotations

import pytest

from conformance.errors import FaultNotFired, HostDown, ProbeFailed
from conformance.lab.inventory import LabInventory, NamespaceShell
from conformance.observers.host import Kind, residue
from labs.hosts.faults import end_process
from labs.libvirt_hosts import LibvirtHostsLab
from labs.libvirt_hosts.observers import LibvirtObservers
from labs.libvirt_hosts.probe import LibvirtHostProbe

pytestmark = pytest.mark.lab
NOTHING: dict[str, list[object]] = {"appeared": [], "vanished": []}


@pytest.fixture
def probe(observers: LibvirtObservers) -> LibvirtHostProbe:
    return observers.host("a")


def test_a_host_at_rest_looks_the_same(probe: LibvirtHostProbe) -> None:
    with probe.create_canary("hvc-rest"):
        before = probe.inventory()

        assert residue(before, probe.inventory()) == NOTHING


def test_a_vm_is_seen_everywhere_and_gone_at_the_end(probe: LibvirtHostProbe) -> None:
    before = probe.inventory()

    with probe.create_canary("hvc-seen") as canary:
        appeared = residue(before, probe.inventory())["appeared"]
        assert {entry.kind for entry in appeared} >= {Kind.DOMAIN, Kind.PROCESS, Kind.FILE}
        assert f"hvc-seen {canary.uuid}" in {entry.name for entry in appeared}
        assert (canary.running, canary.paused, canary.memory_mib, canary.vcpus) == (True, True, 16, 1)
        assert probe.disk_size(canary.disk_paths[0]) == 1 << 20

    assert residue(before, probe.inventory()) == NOTHING
    assert not probe.exists(canary.disk_paths[0])


def test_each_kind_of_leftover_is_seen(probe: LibvirtHostProbe, lab: LabInventory) -> None:
    path = f"{lab.storages[0].path}/left"
    make = f"""
        ip tuntap add vnet77 mode tap; touch {path}; touch /var/lib/libvirt/qemu/save/left.save
        nft add table ip left; nft add chain ip left own; mkdir -p /var/lib/libvirt/left
        mount -t tmpfs tmpfs /var/lib/libvirt/left
    """
    undo = f"""
        ip link del vnet77; rm -f {path} /var/lib/libvirt/qemu/save/left.save; nft delete table ip left
        umount /var/lib/libvirt/left; rmdir /var/lib/libvirt/left
    """
    before = probe.inventory()
    try:
        probe.shell.script(f"set -e\n{make}")
        kinds = [entry.kind for entry in residue(before, probe.inventory())["appeared"]]
    finally:
        probe.shell.script(undo, check=False)

    assert sorted(kinds) == sorted([Kind.INTERFACE, Kind.FILE, Kind.FILE, Kind.RULE, Kind.MOUNT])
    assert residue(before, probe.inventory()) == NOTHING


def test_what_libvirt_is_writing_is_no_residue(probe: LibvirtHostProbe) -> None:
    before = probe.inventory()
    whole, half = "/run/libvirt/qemu/hvc-written.xml", "/run/libvirt/qemu/hvc-written.xml.new"
    probe.shell.run(["touch", half])
    try:
        assert residue(before, probe.inventory()) == NOTHING
        probe.shell.run(["mv", half, whole])
        assert [entry.name for entry in residue(before, probe.inventory())["appeared"]] == [whole]
    finally:
        probe.shell.run(["rm", "-f", half, whole])


def test_the_daemon_restarts_under_a_running_vm(probe: LibvirtHostProbe) -> None:
    with probe.create_canary("hvc-restart") as canary:
        before, daemon = probe.inventory(), probe.shell.run(["pidof", "libvirtd"]).text

        probe.restart_management()

        assert probe.shell.run(["pidof", "libvirtd"]).text != daemon
        assert residue(before, probe.inventory()) == NOTHING
        assert list(probe.domains()) == [canary]


def test_a_daemon_that_died_is_started_again(probe: LibvirtHostProbe, observers: LibvirtObservers) -> None:
    assert list(observers.revive()) == [], "those that live are left alone"
    daemon = probe.shell.run(["pidof", "libvirtd"]).text.strip()
    end_process(probe.shell, int(daemon), "libvirtd")
    assert observers.health() != []

    assert list(observers.revive()) == ["the management daemon of host a had died, and was started again"]

    assert observers.health() == []


def test_the_logs_since_a_mark_are_what_was_written_after_it(probe: LibvirtHostProbe) -> None:
    """Whether a daemon has anything to say when it starts depends on the machine, so the test writes itself."""
    log = probe.logs[0]
    with probe.create_canary("hvc-log"):
        mark = probe.log_mark()
        probe.shell.script('echo "said by a test" >> "$1"', log)
        vm_log = "/var/log/libvirt/qemu/hvc-log-new.log"
        probe.shell.script('echo "a VM that came later" > "$1"', vm_log)
        try:
            told = probe.log_since(mark)
        finally:
            probe.shell.run(["rm", "-f", vm_log])

        assert told == f"== {log}\nsaid by a test\n== {vm_log}\na VM that came later\n"
        assert probe.log_since(probe.log_mark()) == ""


def test_a_vm_is_killed_once(probe: LibvirtHostProbe) -> None:
    with probe.create_canary("hvc-kill") as canary:
        probe.kill_vm(canary.uuid)

        assert [domain.running for domain in probe.domains()] == [False]
        with pytest.raises(FaultNotFired):
            probe.kill_vm(canary.uuid)


def test_a_vm_is_stopped_out_of_band(probe: LibvirtHostProbe) -> None:
    with probe.create_canary("hvc-stop") as canary:
        probe.stop_out_of_band(canary.uuid)

        assert [domain.running for domain in probe.domains()] == [False]
        with pytest.raises(FaultNotFired):
            probe.stop_out_of_band(canary.uuid)


def test_a_cut_link_drops_migrations_and_nothing_else(probe: LibvirtHostProbe, lab: LabInventory) -> None:
    before = probe.inventory()
    uri = f"qemu+tcp://{lab.host('b').address}/system"

    with probe.cut_link_to("b"):
        assert probe.shell.run(["virsh", "-c", uri, "uri"], check=False).status == 0
        assert residue(before, probe.inventory())["appeared"]

    assert residue(before, probe.inventory()) == NOTHING


@pytest.mark.parametrize("storage", ["shared", "local"])
def test_a_full_storage_takes_nothing(probe: LibvirtHostProbe, lab: LabInventory, storage: str) -> None:
    path = lab.storage(storage).path / "more"
    write = ["dd", "if=/dev/zero", f"of={path}", "bs=4096", "count=1", "conv=fsync"]
    before = probe.inventory()

    with probe.fill_storage(storage):
        assert probe.shell.run(write, check=False).status != 0
        probe.shell.run(["rm", "-f", str(path)])

    assert residue(before, probe.inventory()) == NOTHING
    assert probe.shell.run(write).status == 0
    probe.shell.run(["rm", str(path)])


def test_the_root_file_system_is_never_filled(lab: LabInventory) -> None:
    storage = lab.storage("local").model_copy(update={"path": "/tmp"})
    unsafe = LibvirtObservers(lab.model_copy(update={"storages": [storage]}))

    with pytest.raises(ProbeFailed, match="will not be filled"), unsafe.host("a").fill_storage("local"):
        pass
    unsafe.close()


def test_a_file_is_taken_away_and_put_back(probe: LibvirtHostProbe, lab: LabInventory) -> None:
    path = f"{lab.storages[0].path}/there"
    probe.shell.run(["touch", path])
    with probe.take_away(path):
        assert not probe.exists(path)
        with pytest.raises(FaultNotFired), probe.take_away(path):
            pass
    assert probe.exists(path)
    probe.shell.run(["rm", path])


def test_health_names_what_is_broken(lab: LabInventory, observers: LibvirtObservers, probe: LibvirtHostProbe) -> None:
    probe.shell.run(["ip", "link", "set", "net1", "down"])
    try:
        assert list(observers.health()) == ["host a: the bridge net1 is down"]
    finally:
        probe.shell.run(["ip", "link", "set", "net1", "up"])
    gone = lab.host("b").model_copy(update={"shell": NamespaceShell(pid=2**22)})
    broken = LibvirtHostsLab.observe(lab.model_copy(update={"hosts": [lab.host("a"), gone]}))
    assert [line.split(":")[0] for line in broken.health()] == ["host b"]
    with pytest.raises(HostDown):
        broken.host("b").domains()
    broken.close()
