"""The probe of a real Xen host: what it sees, that it stays the same at rest, and that every fault fires."""

from __future__ import annotations

import pytest

from conformance.errors import FaultNotFired, ProbeFailed
from conformance.lab.inventory import LabInventory
from conformance.observers.host import Kind, residue
from labs.xen_hosts.observers import XenObservers
from labs.xen_hosts.probe import XenHostProbe

pytestmark = pytest.mark.lab
NOTHING: dict[str, list[object]] = {"appeared": [], "vanished": []}


@pytest.fixture
def probe(observers: XenObservers) -> XenHostProbe:
    return observers.host("a")


def test_a_vm_is_seen_everywhere_stays_the_same_and_is_gone_at_the_end(probe: XenHostProbe) -> None:
    before = probe.inventory()

    with probe.create_canary("hvc-seen") as canary:
        here = probe.inventory()
        appeared = residue(before, here)["appeared"]
        assert {entry.kind for entry in appeared} >= {Kind.DOMAIN, Kind.PROCESS, Kind.FILE}
        assert f"hvc-seen {canary.uuid}" in {entry.name for entry in appeared}
        assert (canary.running, canary.paused, canary.memory_mib, canary.vcpus) == (True, True, 96, 1)
        assert probe.disk_size(canary.disk_paths[0]) == 1 << 20
        assert residue(here, probe.inventory()) == NOTHING

    assert residue(before, probe.inventory()) == NOTHING
    assert not probe.exists(canary.disk_paths[0])


def test_each_kind_of_leftover_is_seen(probe: XenHostProbe, lab: LabInventory) -> None:
    path = f"{lab.storages[0].path}/left"
    make = f"""
        ip link add vif77.0 type dummy; ip link set vif77.0 master net1; truncate -s 1M {path}
        mkdir -p /etc/libvirt/libxl; touch /etc/libvirt/libxl/left.xml
        nft add table ip left; nft add chain ip left own; mkdir -p /var/lib/xen/left
        mount -t tmpfs tmpfs /var/lib/xen/left; losetup -f {path}; xenstore-write /libxl/77/left x
    """
    undo = f"""
        ip link del vif77.0; losetup -D; rm -f {path} /etc/libvirt/libxl/left.xml; nft delete table ip left
        umount /var/lib/xen/left; rmdir /var/lib/xen/left; xenstore-rm /libxl/77
    """
    before = probe.inventory()
    try:
        probe.shell.script(f"set -e\n{make}")
        kinds = [entry.kind for entry in residue(before, probe.inventory())["appeared"]]
    finally:
        probe.shell.script(undo, check=False)

    wanted = [Kind.INTERFACE, Kind.FILE, Kind.FILE, Kind.RULE, Kind.MOUNT, Kind.MOUNT, Kind.FILE]
    assert sorted(kinds) == sorted(wanted)
    assert residue(before, probe.inventory()) == NOTHING


def test_the_daemon_restarts_under_a_running_vm(probe: XenHostProbe) -> None:
    with probe.create_canary("hvc-restart") as canary:
        before, mark = probe.inventory(), probe.log_mark()

        probe.restart_management()

        assert residue(before, probe.inventory()) == NOTHING
        assert list(probe.domains()) == [canary]
        # whether a daemon has anything to say when it starts depends on the machine
        probe.shell.script('echo "said by a test" >> "$1"', probe.logs[0])
        assert "said by a test" in probe.log_since(mark)


def test_a_vm_is_stopped_once(probe: XenHostProbe) -> None:
    with probe.create_canary("hvc-stop") as canary:
        probe.stop_out_of_band(canary.uuid)

        assert probe.find(canary.uuid) is None
        with pytest.raises(FaultNotFired, match="no domain of VM"):
            probe.kill_vm(canary.uuid)


def test_a_cut_link_drops_migrations_and_nothing_else(probe: XenHostProbe, lab: LabInventory) -> None:
    address = lab.host("b").address
    connect = "timeout 5 bash -c 'exec 3<>/dev/tcp/{}/{}'"
    with probe.cut_link_to("b"):
        assert probe.shell.script(connect.format(address, 49152), check=False).status == 124
        assert probe.shell.script(connect.format(address, 22), check=False).status == 0

    assert probe.shell.script(connect.format(address, 49152), check=False).status == 1


@pytest.mark.parametrize("storage", ["shared", "local"])
@pytest.mark.parametrize("host", ["a", "b"])
def test_a_full_storage_takes_nothing(observers: XenObservers, lab: LabInventory, storage: str, host: str) -> None:
    probe = observers.host(host)
    path = f"{lab.storage(storage).path}/more"
    before = probe.inventory()

    with probe.fill_storage(storage), pytest.raises(ProbeFailed):
        probe.shell.script('echo x > "$1" && sync "$1"', path)

    probe.shell.script('echo x > "$1" && sync "$1" && rm "$1"', path)
    assert residue(before, probe.inventory()) == NOTHING


def test_a_file_is_taken_away_and_put_back(probe: XenHostProbe, lab: LabInventory) -> None:
    path = f"{lab.storages[0].path}/taken"
    probe.shell.run(["touch", path])
    with probe.take_away(path):
        assert not probe.exists(path)
    assert probe.exists(path)
    probe.shell.run(["rm", path])


def test_health_names_what_is_broken(lab: LabInventory, observers: XenObservers, probe: XenHostProbe) -> None:
    bridge = lab.networks[0].bridge
    probe.shell.run(["ip", "link", "set", bridge, "down"])
    try:
        assert observers.health() == [f"host a: the bridge {bridge} is down"]
    finally:
        probe.shell.run(["ip", "link", "set", bridge, "up"])
    assert observers.health() == []
