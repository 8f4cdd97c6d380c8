"""The agent's probes, each against what QEMU was really given, and with a case in which the probe must say no."""

from __future__ import annotations

import time

import pytest

from conformance.errors import ProbeFailed
from conformance.guest import DISK_SIZE, GuestImages
from conformance.waiting import until
from tests.guest.conftest import BROKEN_AT
from tests.guest.vm import MAC, UUID, WIRE_MAC, Vm

pytestmark = pytest.mark.lab


def test_boot_and_identity(vm: Vm, images: GuestImages) -> None:
    boot, identity = vm.guest.boot(), vm.guest.identity()
    assert len(boot.boot_id) == 36
    assert boot.boots == 1
    assert boot.clean
    assert 0 < boot.uptime_ms < vm.guest.boot().uptime_ms
    assert identity.smbios_uuid == UUID
    assert identity.image_id == images.image_id
    assert identity.firmware == "direct"


def test_cpus_and_memory(vm: Vm) -> None:
    cpus, memory = vm.guest.cpus(), vm.guest.memory()
    assert cpus.online == len([cpu for cpu in vm.qmp("query-hotpluggable-cpus") if "qom-path" in cpu])
    assert cpus.model
    assert len(cpus.flags_sha256) == 64
    assert 64 * 1024 < memory.available_kib < memory.total_kib


def test_disks(vm: Vm) -> None:
    disks = {disk.serial: disk for disk in vm.guest.disks()}
    assert {"root", "data0", "fixed"} <= set(disks)
    assert disks["root"].size_bytes == DISK_SIZE
    assert disks["data0"].size_bytes == 8 << 20
    assert disks["fixed"].readonly
    assert not disks["data0"].readonly
    assert len({disk.address for disk in disks.values()}) == len(disks)
    assert vm.guest.disk("nobody") is None


def test_nics_and_resolver(vm: Vm) -> None:
    until("the lease", lambda: "10.0.2.15/24" in getattr(vm.guest.nic(MAC), "addresses", ()), seconds=10)
    first = vm.guest.nic(MAC)
    assert first is not None
    second = vm.guest.nic(WIRE_MAC)
    assert second is not None
    assert first.carrier
    assert (first.mtu, first.queues) == (1500, 1)
    assert "fe80::5054:ff:fe00:2/64" in second.addresses  # derived from the MAC, so that observers can guess it
    assert first.address != second.address
    resolver = until("a router's advertisement", vm.guest.resolver, lambda found: found.gateway6 != "", seconds=10)
    assert (resolver.gateway4, resolver.gateway6, resolver.dns) == ("10.0.2.2", "fe80::2", ("10.0.2.3",))


def test_carrier_follows_the_link(vm: Vm) -> None:
    vm.qmp("set_link", name="wire", up=False)
    until("no carrier", lambda: vm.guest.nic(WIRE_MAC), lambda nic: nic is not None and not nic.carrier, seconds=5)
    vm.qmp("set_link", name="wire", up=True)
    until("a carrier", lambda: vm.guest.nic(WIRE_MAC), lambda nic: nic is not None and nic.carrier, seconds=5)


def test_clocks_go_on(vm: Vm) -> None:
    before, after = vm.guest.clocks(), vm.guest.clocks()
    assert before.monotonic_ns < after.monotonic_ns
    assert before.boottime_ns < after.boottime_ns
    assert abs(after.realtime_ns / 1e9 - time.time()) < 60


def test_kernel_problems_are_seen(vm: Vm) -> None:
    assert vm.guest.kernel_problems() == []
    with pytest.raises(ProbeFailed, match="Input/output error"):
        vm.guest.hash_disk("fixed", BROKEN_AT, 4096)
    assert any("I/O error" in line for line in vm.guest.kernel_problems())


@pytest.mark.parametrize(
    "request_line",
    ["boot now", "nonsense", "disk-hash data0 1 4096", "disk-hash data0 0 99999999999", "disk-hash nobody 0 4096",
     "ram-put key", "beat-start somewhere 1 1", "ignore-acpi 2", "send-frame 52:54:00:00:00:01 xyz", "echo nowhere 1 1",
     "foreign-unicast nobody 52:54:00:00:00:01", "renew 00:00:00:00:00:00", "writer-start data0 0 0 1",
     "ram-fill 1000000 1"],
)  # fmt: skip
def test_a_wrong_request_is_refused(vm: Vm, request_line: str) -> None:
    verb, *arguments = request_line.split()
    with pytest.raises(ProbeFailed, match="refused"):
        vm.guest.ask(verb, *arguments)


def test_print_reaches_the_console(vm: Vm) -> None:
    vm.drain_console()
    vm.guest.print_console("token-4711")
    while b"token-4711" not in vm.console:
        assert vm.drain_console(5), "the console is silent"
