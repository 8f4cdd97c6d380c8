"""Xen behind libvirt: three types of guests as data, and what libxl cannot do is refused before anything happens."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from conformance.driver import FACETS
from conformance.errors import InvalidRequest, LabFileError, Unsupported
from conformance.lab.inventory import LabInventory, Target
from conformance.model import MIB, Capability, DiskSpec, Firmware, MigrateOptions, NicSpec, VmSpec
from drivers.libvirt import LibvirtDriver, options, xml
from drivers.libvirt.base import Located
from drivers.libvirt.connection import Hosts
from drivers.libvirt.kvm import KVM
from drivers.libvirt.xen import FLAVOURS, XenDriver
from tests.drivers.libvirt.test_xml import SPEC

TYPES = sorted(FLAVOURS)
URIS = {"a": "xen+tcp://a.example/system", "b": "xen+ssh://root@b.example/system"}


def build(guest_type: str, **changes: object) -> ET.Element:
    flavour = FLAVOURS[guest_type]
    spec = replace(SPEC, type="xen", machine=flavour.machine, direct=xml.DirectBoot("/k", "/i", "x"), **changes)  # type: ignore[arg-type]
    return ET.fromstring(xml.text(xml.domain(spec, flavour)))


# XML


@pytest.mark.parametrize(
    ("guest_type", "os", "machine"), [("pv", "xen", "xenpv"), ("pvh", "xenpvh", "xenpvh"), ("hvm", "hvm", "xenfv")]
)
def test_the_guest_is_entered_as_asked(guest_type: str, os: str, machine: str) -> None:
    root = build(guest_type)
    kind = root.find("os/type")
    assert root.get("type") == "xen"
    assert kind is not None
    assert (kind.text, kind.get("machine")) == (os, machine)
    assert root.findtext("os/kernel") == "/k"


@pytest.mark.parametrize("guest_type", TYPES)
def test_devices_are_xens_own(guest_type: str) -> None:
    root = build(guest_type)
    buses = [item.find("target").get("bus") for item in xml.disks(root)]  # type: ignore[union-attr]
    # the BIOS of an HVM guest has the first disk only
    first, *others = ("sda", "xvde", "xvdf") if guest_type == "hvm" else ("xvda", "xvdb", "xvdc")
    assert list(map(xml.disk_dev, xml.disks(root))) == [first, others[0]]
    assert buses == ["scsi" if guest_type == "hvm" else "xen", "xen"]
    assert xml.free_target(root, FLAVOURS[guest_type]) == others[1]
    assert {item.find("driver").get("type") for item in xml.disks(root)} == {"qcow2"}  # type: ignore[union-attr]
    assert {item.get("type") for item in root.findall("devices/interface/model")} == {"netfront"}
    assert root.find("devices/channel") is None
    assert root.find("devices/memballoon").get("model") == "xen"  # type: ignore[union-attr]


@pytest.mark.parametrize("guest_type", TYPES)
def test_nothing_is_in_the_xml_that_libxl_only_ignores(guest_type: str) -> None:
    text = xml.text(build(guest_type, nics=()))
    for word in ("cache=", "discard=", "<log", "tb-cache", "virtio", "panic", "<rom"):
        assert word not in text


@pytest.mark.parametrize("guest_type", TYPES)
def test_the_time_stamp_counter_is_the_hosts(guest_type: str) -> None:
    timer = build(guest_type).find("clock/timer")
    assert timer is not None
    assert (timer.get("name"), timer.get("mode")) == ("tsc", "native")
    assert ET.fromstring(xml.text(xml.domain(SPEC, KVM))).find("clock/timer") is None


def test_consoles_are_those_that_there_are() -> None:
    assert build("pv").find("devices/console/target").get("type") == "xen"  # type: ignore[union-attr]
    assert build("pv").find("devices/serial") is None
    assert build("hvm").find("devices/serial") is not None
    assert build("hvm").find("devices/console") is None


# options


def target(**values: object) -> Target:
    return Target(slug="xen", driver="xen", hosts=["a", "b"], options={"uris": URIS, **values})


def test_a_guest_type_that_does_not_exist_is_named() -> None:
    with pytest.raises(LabFileError, match="guest_type"):
        options.parse(target(guest_type="pvm"), options.XenOptions)
    with pytest.raises(LabFileError, match="guest_type"):
        options.parse(target(guest_type="pv"), options.Options)


def test_the_driver_names_every_option_that_it_reads() -> None:
    assert XenDriver.option_names == frozenset(options.XenOptions.model_fields)
    assert XenDriver.option_names > LibvirtDriver.option_names


def test_a_way_into_dom0_is_given_for_every_host_or_for_none() -> None:
    shell = {"kind": "ssh", "address": "a.example"}
    with pytest.raises(LabFileError, match="run xl in on b"):
        options.parse(target(xl={"a": shell}), options.XenOptions)
    with pytest.raises(LabFileError, match="xl"):
        options.parse(target(xl={"a": {"kind": "winrm", "address": "a.example"}}), options.XenOptions)
    assert isinstance(options.parse(target(xl={"a": shell, "b": shell}), options.XenOptions), options.XenOptions)


# capabilities and refusals, on hosts that are not there


class Conn:
    """As much of a connection as is asked for before anything happens; every other call is a change, and fails."""

    def __init__(self, version: int = 4_017_000, guests: tuple[str, ...] = ("xen", "xenpvh", "hvm")) -> None:
        self._version = version
        self._guests = guests

    def getCapabilities(self) -> str:  # noqa: N802 - libvirt's name
        guests = "".join(f"<guest><os_type>{kind}</os_type></guest>" for kind in self._guests)
        return f"<capabilities>{guests}</capabilities>"

    def getDomainCapabilities(self, *_: object) -> str:  # noqa: N802
        return "<domainCapabilities/>"

    def getVersion(self) -> int:  # noqa: N802
        return self._version

    def getLibVersion(self) -> int:  # noqa: N802
        return 9_000_000


class Dom:
    """A domain that is looked at and never changed."""

    def __init__(self, root: ET.Element, *, active: bool) -> None:
        self._text = xml.text(root)
        self._active = active

    def isActive(self) -> bool:  # noqa: N802
        return self._active

    def XMLDesc(self, _: int) -> str:  # noqa: N802
        return self._text

    def state(self, _: int) -> tuple[int, int]:
        return (1, 1) if self._active else (5, 1)

    def hasManagedSaveImage(self, _: int) -> bool:  # noqa: N802
        return False


@pytest.fixture(autouse=True)
def _needs_libvirt() -> None:
    pytest.importorskip("libvirt", reason="libvirt-python is not installed")


def driver(
    monkeypatch: pytest.MonkeyPatch,
    guest_type: str = "pv",
    *,
    conns: dict[str, Conn] | None = None,
    active: bool = True,
    bzimage: bool = True,
    **values: object,
) -> XenDriver:
    """A driver whose hosts and whose one VM, "vm" on host a, are doubles."""
    lab = LabInventory.model_validate(
        {
            "name": "double",
            "kind": "libvirt",
            "evidence": "own-double",
            "host": [
                {"name": "a", "address": "192.0.2.1", "memory_mib": 1024},
                {"name": "b", "address": "192.0.2.2", "address6": "2001:db8::2"},
            ],
            "network": [
                {
                    "name": "n",
                    "bridge": "br0",
                    "ipv4": "198.51.100.0/24",
                    "peer": {"kind": "local"},
                    "peer_interface": "p",
                }
            ],
            "storage": [{"name": "shared", "path": "/s", "shared": True}],
            "image": [
                {
                    "name": "full",
                    "path": "/i",
                    "sha256": "0" * 64,
                    "size_bytes": MIB,
                    "kernel": "/k",
                    "bzimage": "/z",
                    "initrd": "/r",
                },
                {"name": "disk", "path": "/i", "sha256": "0" * 64, "size_bytes": MIB},
                {
                    "name": "no-loader",
                    "path": "/i",
                    "sha256": "0" * 64,
                    "size_bytes": MIB,
                    "boot_loader": False,
                    "kernel": "/k",
                    "bzimage": "/z" if bzimage else None,
                    "initrd": "/r",
                },
            ],
            "target": [target(guest_type=guest_type, **values).model_dump()],
        }
    )
    made = conns or {"a": Conn(), "b": Conn()}
    hosts = Hosts(URIS)
    monkeypatch.setattr(hosts, "get", made.__getitem__)
    parsed = options.parse(lab.targets[0], options.XenOptions)
    found = XenDriver(lab, lab.targets[0], parsed, hosts, XenDriver.flavour_for(parsed))
    here = Located("vm", "a", made["a"], Dom(build(guest_type), active=active))
    monkeypatch.setattr(found, "_locate", lambda *_: here)
    monkeypatch.setattr(found, "_lookup", lambda *_: None)
    return found


@pytest.mark.parametrize("guest_type", TYPES)
def test_every_capability_of_the_flavour_has_its_facet(guest_type: str) -> None:
    declared = FLAVOURS[guest_type].capabilities
    assert [key for key in declared if key in FACETS and not issubclass(XenDriver, FACETS[key])] == []


def test_what_is_not_declared_is_refused_by_the_call_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(monkeypatch)
    asks: dict[Capability, Any] = {
        Capability.SNAPSHOT_DISK: lambda: made.snapshot("vm", "s"),
        Capability.SNAPSHOT_MEMORY: lambda: made.snapshot("vm", "s", memory=True),
        Capability.SNAPSHOT_QUIESCE: lambda: made.snapshot("vm", "s", quiesce=True),
        Capability.SNAPSHOT_EXCLUDE_DISK: lambda: made.snapshot("vm", "s", exclude=("data0",)),
        Capability.NIC_LINK_STATE: lambda: made.set_link("vm", "52:54:00:00:00:01", False),
        Capability.RESIZE_DISK_ONLINE: lambda: made.resize_disk("vm", "root", 2 * MIB),
        Capability.MIGRATE_POSTCOPY: lambda: made.migrate("vm", "b", MigrateOptions(postcopy=True)),
        Capability.MIGRATE_IPV6: lambda: made.migrate("vm", "b", MigrateOptions(uri_family=6)),
        Capability.MIGRATE_LIVE_STORAGE: lambda: made.migrate("vm", "b", MigrateOptions(copy_storage=True)),
        Capability.ANTI_SPOOF: lambda: made.attach_nic("vm", NicSpec("n", "52:54:00:00:00:09", anti_spoof=True)),
        Capability.CONSOLE_LOG: lambda: made.console_log("vm"),
    }
    declared = made.capabilities()
    for capability, ask in asks.items():
        assert capability not in declared
        with pytest.raises(Unsupported) as refusal:
            ask()
        assert refusal.value.capability == capability


def test_the_console_is_declared_where_the_lab_says_that_there_are_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Capability.CONSOLE_LOG in driver(monkeypatch, console_logs="/var/log/xen/console").capabilities()


def test_a_migration_can_be_aborted_where_there_is_a_way_into_dom0(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Capability.MIGRATE_ABORT not in driver(monkeypatch).capabilities()
    way = {host: {"kind": "local"} for host in ("a", "b")}
    assert Capability.MIGRATE_ABORT in driver(monkeypatch, xl=way).capabilities()


def test_a_diagnosis_says_whether_there_is_a_way_into_dom0(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = driver(monkeypatch).diagnose()
    assert (found.ok, found.needed) == (False, False)
    way = {host: {"kind": "local"} for host in ("a", "b")}
    monkeypatch.setenv("PATH", "/nowhere:/usr/bin:/bin")
    with closing(driver(monkeypatch, xl=way)) as made:
        findings = made.diagnose()  # this machine runs no Xen
    assert [(item.ok, item.needed) for item in findings] == [(False, True)] * 2
    assert "there is no xl" in findings[0].what


def spec(**changes: Any) -> VmSpec:
    return VmSpec(name="new", image="full", disks=(DiskSpec(MIB, "data0"),), **changes)


def test_a_guest_without_firmware_refuses_any(monkeypatch: pytest.MonkeyPatch) -> None:
    for firmware in Firmware:
        with pytest.raises(Unsupported, match="firmware"):
            driver(monkeypatch, "pvh").create(spec(firmware=firmware))


def test_a_guest_that_needs_a_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="booted from a kernel"):
        driver(monkeypatch, "pv").create(replace(spec(), image="disk"))


@pytest.mark.parametrize(("guest_type", "kernel"), [("pv", "/k"), ("pvh", "/k"), ("hvm", "/z")])
def test_each_type_gets_the_kernel_that_it_can_be_entered_at(
    monkeypatch: pytest.MonkeyPatch, guest_type: str, kernel: str
) -> None:
    made = driver(monkeypatch, guest_type, direct_kernel=True)
    found = made._direct(made._lab.image("full"))
    assert found is not None
    assert found.kernel == kernel


def test_an_hvm_guest_boots_from_disk_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(monkeypatch, "hvm")
    assert made._direct(made._lab.image("full")) is None


def test_a_disk_without_a_boot_loader_is_booted_from_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(monkeypatch, "hvm")
    found = made._direct(made._lab.image("no-loader"))
    assert found is not None
    assert found.kernel == "/z"


@pytest.mark.parametrize(("bzimage", "firmware"), [(False, None), (True, Firmware.BIOS)])
def test_a_disk_that_nothing_can_boot_is_refused(
    monkeypatch: pytest.MonkeyPatch, bzimage: bool, firmware: Firmware | None
) -> None:
    made = driver(monkeypatch, "hvm", bzimage=bzimage)
    with pytest.raises(InvalidRequest, match="no-loader has no boot loader"):
        made.create(replace(spec(firmware=firmware), image="no-loader"))


def test_a_guest_type_that_the_host_cannot_run_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = driver(monkeypatch, "hvm", conns={"a": Conn(guests=("xen",)), "b": Conn()})
    monkeypatch.setattr(made, "_check_free", lambda *_: None)
    with pytest.raises(Unsupported, match="the host runs no hvm guests, only xen"):
        made.create(spec())


def test_machines_are_started_one_at_a_time_on_a_host_and_at_once_on_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """libxl gives a device model ten seconds to answer; three that start together on a slow host do not make that."""
    made = driver(monkeypatch)
    under_way, most, both = dict.fromkeys("ab", 0), dict.fromkeys("ab", 0), threading.Barrier(2)

    def power_on(_: object, here: Located) -> None:
        under_way[here.host] += 1
        most[here.host] = max(most[here.host], under_way[here.host])
        both.wait(5)  # the other host's start, or nobody would come
        under_way[here.host] -= 1

    monkeypatch.setattr(LibvirtDriver, "_power_on", power_on)
    with ThreadPoolExecutor(6) as pool:
        starts = [pool.submit(made._power_on, Located(f"vm{n}", host, None, None)) for host in "ab" for n in range(3)]
    assert [start.exception() for start in starts] == [None] * 6
    assert most == {"a": 1, "b": 1}


class Counting:
    """A toolstack that tells how much a guest watches, once a look; the last number from then on."""

    def __init__(self, *counts: int | None) -> None:
        self.left = list(counts)

    def watches(self, host: str, id: int) -> int | None:
        assert (host, id) == ("a", 7)
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def unplug(monkeypatch: pytest.MonkeyPatch, counting: Counting) -> None:
    """Take a NIC out of a guest of which libxl says at once that it is gone."""
    made = driver(monkeypatch)
    monkeypatch.setattr(made, "_toolstack", counting)
    here = made._locate("vm", "detach_nic")
    monkeypatch.setattr(here.dom, "ID", lambda: 7, raising=False)
    monkeypatch.setattr(here.dom, "detachDeviceFlags", lambda *_: there.clear(), raising=False)
    there = ["the NIC"]
    made._unplug_live(here, "detach_nic", "<interface/>", lambda: bool(there))
    assert not there


def test_a_device_is_gone_when_the_guests_kernel_has_let_go_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(12, 12, 12, 11)
    unplug(monkeypatch, counting)
    assert counting.left == [11]


@pytest.mark.parametrize("counts", [(12, None), (None,), (12, 13)])
def test_where_that_cannot_be_told_libxls_word_stands(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int | None, ...]
) -> None:
    monkeypatch.setattr("drivers.libvirt.xen.UNPLUG_SECONDS", 0.1)
    unplug(monkeypatch, Counting(*counts))


def test_a_paused_vm_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(monkeypatch)
    assert Capability.MIGRATE_PAUSED not in made.capabilities()
    monkeypatch.setattr(Dom, "state", lambda *_: (3, 1))  # VIR_DOMAIN_PAUSED, by the user
    with pytest.raises(Unsupported) as refusal:
        made.migrate("vm", "b")
    assert refusal.value.capability == Capability.MIGRATE_PAUSED


def test_the_version_of_xen_has_no_part_that_libvirt_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = driver(monkeypatch).facts()
    assert (facts.hypervisor, facts.version, facts.details["libvirt"]) == ("Xen", "4.17", "9.0.0")


def test_a_host_with_an_older_xen_is_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    made = driver(monkeypatch, conns={"a": Conn(), "b": Conn(version=4_016_000)})
    monkeypatch.setattr(made, "_attached", lambda *_: [])
    monkeypatch.setattr(made, "_owned", lambda *_: [])
    with pytest.raises(Unsupported, match=r"its own version or a newer one; a has 4\.17, b has 4\.16\b"):
        made.migrate("vm", "b")
