"""What a look at a Xen host makes of what the host says: taken from real hosts, no host needed."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.errors import FaultNotFired, ProbeFailed
from conformance.observers.host import Kind, residue
from conformance.shells.shell import Completed, Process, Shell
from labs.xen_hosts import faults
from labs.xen_hosts.look import Look, look
from labs.xen_hosts.probe import XenHostProbe

UUID, OTHER = "28c74726-36d3-40a9-89ca-5441a53fb28c", "1937e68f-9ada-4c7d-8e79-5b6e5dffb375"
HEAD = "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                     Reason"
DOM0 = f"{'Domain-0':40} {0:5} {768:5} {1:5}     r-----     {91.9:5} 00000000-0000-0000-0000-000000000000        -   -"


def domain(name: str, id: int, state: str, uuid: str = UUID, seconds: float = 6.0) -> str:
    return f"{name:40} {id:5} {128:5} {1:5}     {state}     {seconds:5} {uuid}        -                -"


class Canned(Shell):
    """Answers the look's script with sections."""

    def __init__(self, *sections: tuple[str, str], end: bool = True) -> None:
        self.sections = [*sections, *([("end", "")] if end else [])]

    def run(self, argv: Sequence[str], *_: object, **__: object) -> Completed:
        token = argv[4]
        text = "".join(f"\n{token} {head}\n{body}" for head, body in self.sections)
        return Completed(tuple(argv), 0, text.encode(), b"")

    def popen(self, argv: Sequence[str]) -> Process:
        raise NotImplementedError


def seen(*sections: tuple[str, str], lines: Sequence[str] = ()) -> Look:
    listing = ("list", "\n".join([HEAD, DOM0, *lines, ""]))
    return look(Canned(listing, *sections), "a", ["/srv/shared"], everything=True)


BACKENDS = f"""\
/local/domain/0/backend/qdisk/1/51712/params = "qcow2:/srv/shared/hvc-{UUID}.root.qcow2"
/local/domain/0/backend/vbd/1/51728/params = "/srv/shared/plain.raw"
/local/domain/0/backend/vif/1/0/mac = "00:16:3E:00:00:01"
/local/domain/0/backend/vif/1/0/bridge = "net1"
"""


def test_a_domain_is_told_with_its_devices() -> None:
    found = seen(("backends", BACKENDS), ("sizes 1", "131072\n"), lines=[domain("g1", 1, "-b----")])

    (vm,) = found.domains()
    assert (vm.name, vm.uuid, vm.pid, vm.running, vm.paused, vm.memory_mib) == ("g1", UUID, 1, True, False, 128)
    assert vm.macs == ("00:16:3e:00:00:01",)
    assert vm.disk_paths == (f"/srv/shared/hvc-{UUID}.root.qcow2", "/srv/shared/plain.raw")


@pytest.mark.parametrize(
    ("state", "running", "paused"),
    [
        ("r-----", True, False),
        ("------", True, False),
        ("--p---", True, True),
        ("---s--", False, False),  # shut down, or suspended to be moved
        ("----c-", False, False),
        ("-----d", False, False),
    ],
)
def test_what_a_state_means(state: str, running: bool, paused: bool) -> None:
    (vm,) = seen(lines=[domain("g1", 7, state)]).domains()

    assert (vm.running, vm.paused) == (running, paused)


def test_of_two_domains_of_a_vm_the_living_one_counts() -> None:
    found = seen(lines=[domain("g1--migratedaway", 1, "---s--"), domain("g1", 2, "--p---")]).domain(UUID)

    assert found is not None
    assert found.id == 2


class Destroyed(Canned):
    """A host on which a domain that is destroyed, or was to crash, goes on in another state."""

    def __init__(self, after: str, *, before: str = "-b----", seconds: float = 6.0, status: int = 0) -> None:
        self.state, self._after, self._seconds, self._status = before, after, seconds, status
        self.by: list[str] = []
        super().__init__()

    def run(self, argv: Sequence[str], *_: object, **__: object) -> Completed:
        if argv[0] in ("xl", "python3"):
            self.state = self._after
            self.by.append(argv[0])
            return Completed(tuple(argv), self._status, b"", b"no libxenctrl")
        self.sections = [
            ("list", "\n".join([HEAD, DOM0, domain("g1", 1, self.state, seconds=self._seconds), ""])),
            ("end", ""),
        ]
        return super().run(argv)


def test_a_domain_that_is_dying_has_been_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = SimpleNamespace(storages=(), networks=(), name="a")
    XenHostProbe(nothing, nothing, Destroyed("-----d")).stop_out_of_band(UUID)

    monkeypatch.setattr(faults, "_SECONDS", 0.1)
    with pytest.raises(FaultNotFired, match="lives on"):
        XenHostProbe(nothing, nothing, Destroyed("---s--")).stop_out_of_band(UUID)


@pytest.mark.parametrize(
    ("before", "seconds", "after", "by"),
    [
        ("-b----", 6.0, "----c-", "python3"),
        ("r-----", 0.0, "---s--", "python3"),
        ("--p---", 6.0, "----c-", "python3"),
        # the receiving half of a migration
        ("--p---", 0.0, "-----d", "xl"),
    ],
)
def test_what_has_run_is_killed_by_a_crash(before: str, seconds: float, after: str, by: str) -> None:
    nothing: Any = SimpleNamespace(storages=(), networks=(), name="a")
    host = Destroyed(after, before=before, seconds=seconds)

    XenHostProbe(nothing, nothing, host).kill_vm(UUID)

    assert host.by == [by]


@pytest.mark.parametrize(("after", "status"), [("-b----", 0), ("-b----", 1), ("----c-", 1)])
def test_a_crash_that_did_not_happen_is_told(after: str, status: int) -> None:
    nothing: Any = SimpleNamespace(storages=(), networks=(), name="a")
    with pytest.raises(FaultNotFired, match="was to crash and lives on: no libxenctrl"):
        XenHostProbe(nothing, nothing, Destroyed(after, status=status)).kill_vm(UUID)


def test_a_size_that_is_missing_hides_no_other_domain() -> None:
    lines = [domain("g1", 1, "-b----"), domain("g2", 2, "-b----", OTHER)]

    first, second = seen(("sizes 1 2", "65536\n"), lines=lines).domains()
    assert (first.memory_mib, second.memory_mib) == (64, 128)


def test_an_interface_goes_by_its_mac() -> None:
    """Of a domain that went while the host was looked at there is no MAC, nor of those asked for behind it."""
    found = seen(
        ("macs 1-0 2-1", "00:16:3E:00:00:01\n"),
        ("link vif1.0 vif fe:ff:ff:ff:ff:ff net1", ""),
        ("link vif2.1 vif fe:ff:ff:ff:ff:ff net1", ""),
    )

    names = {e.name for e in found.inventory([], ["net1"]) if e.kind is Kind.INTERFACE}
    assert names == {"vif 00:16:3e:00:00:01", "vif2.1"}


def test_processes_are_told_apart_by_what_they_work_on() -> None:
    found = seen(
        ("file", "/proc/7/cmdline\n/usr/lib/xen/bin/libxl-save-helper\0--restore-domain\0003\0/srv/shared/state\0"),
        ("file", "/proc/8/cmdline\nxl\0create\0/root/a b.cfg\0"),
    )

    names = {(e.name, e.detail) for e in found.inventory([], []) if e.kind is Kind.PROCESS}
    assert names == {("libxl-save-helper /srv/shared/state", "pid 7"), ("xl /root/a b.cfg", "pid 8")}


def test_a_name_may_hold_anything() -> None:
    name = "a  7   128     1     r-----      1.0 name that is longer than its column"

    assert [vm.name for vm in seen(lines=[domain(name, 3, "-b----")]).domains()] == [name]


def test_a_definition_without_a_domain_is_told() -> None:
    xml = (
        f"<domain type='xen'><name>d1</name><uuid>{UUID}</uuid><memory unit='KiB'>262144</memory><vcpu>2</vcpu>"
        "<devices><disk><source file='/srv/shared/d.qcow2'/></disk>"
        "<interface><mac address='00:16:3E:00:00:02'/></interface>"
        "</devices></domain>"
    )
    (vm,) = seen(("file", f"/etc/libvirt/libxl/d1.xml\n{xml}")).domains()

    assert (vm.name, vm.running, vm.vcpus, vm.memory_mib) == ("d1", False, 2, 256)
    assert (vm.macs, vm.disk_paths) == (("00:16:3e:00:00:02",), ("/srv/shared/d.qcow2",))


def with_number(id: int) -> Look:
    """The same VM as domain number `id`."""
    return seen(
        ("backends", BACKENDS.replace("/1/", f"/{id}/")),
        ("store", f"/vm/00000000-0000-0000-0000-000000000000\n/vm/{UUID}\n/libxl/0\n/libxl/{id}\n"),
        ("files", f"s 0 /run/xen/qmp-libxl-{id}\0f 9 /var/lib/xen/userdata-d.{id}.{UUID}.libxl-json\0"),
        (f"link vif{id}.0 vif fe:ff:ff:ff:ff:ff net1", ""),
        ("file", f"/proc/345/cmdline\n/usr/libexec/xen-qemu-system-i386\0-xen-domid\0{id}\0-name\0g1\0"),
        lines=[domain("g1", id, "-b----")],
    )


def test_an_inventory_has_no_domain_numbers() -> None:
    one, nine = (with_number(id).inventory(["/srv/shared"], ["net1"]) for id in (1, 9))

    assert residue(one, nine) == {"appeared": [], "vanished": []}
    names = {entry.name for entry in one}
    assert names >= {"vif 00:16:3e:00:00:01", "qemu guest=g1"}


def test_what_a_dead_domain_left_is_seen() -> None:
    found = seen(
        ("store", f"/vm/{UUID}\n/vm/{OTHER}\n/libxl/1\n/libxl/4\n/libxl/domains\n"),
        ("file", "/sys/block/loop0/loop/backing_file\n/srv/shared/left.raw\n"),
        ("files", "s 0 /run/xen/qmp-libxl-4\0f 3 /run/xen/domid-history\0"),
        ("link vif4.0 vif fe:ff:ff:ff:ff:ff net1", ""),
        lines=[domain("g1", 1, "-b----")],
    )

    entries = {(entry.kind, entry.name) for entry in found.inventory(["/srv/shared"], ["net1"])}
    assert entries == {
        (Kind.DOMAIN, f"g1 {UUID}"),
        (Kind.FILE, f"xenstore /vm/{OTHER}"),
        (Kind.FILE, "xenstore /libxl/4"),
        (Kind.FILE, "/run/xen/qmp-libxl-(no domain)"),
        (Kind.MOUNT, "loop device of /srv/shared/left.raw"),
        (Kind.INTERFACE, "vif4.0"),
    }


def test_a_host_that_lists_nothing_is_no_empty_host() -> None:
    with pytest.raises(ProbeFailed, match="not even its own"):
        look(Canned(("list", "xencall: error: Could not obtain handle\n")), "a", [], everything=False)


def test_a_failed_listing_is_told() -> None:
    with pytest.raises(ProbeFailed, match="does not list its domains"):
        look(Canned(("list", f"{HEAD}\n{DOM0}\n"), ("failed", "")), "a", [], everything=False)


def test_a_look_that_broke_off_is_told() -> None:
    with pytest.raises(ProbeFailed, match="broke off after 'list'"):
        look(Canned(("list", f"{HEAD}\n{DOM0}\n"), end=False), "a", [], everything=False)
