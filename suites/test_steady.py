"""The steady contract: what must hold of any running VM, looked at on each way in which it came to run.

Nothing here changes the VM: one VM a provenance serves all of these checks.
"""

from __future__ import annotations

import pytest

from conformance.driver import Console, Driver
from conformance.lab.inventory import LabInventory
from conformance.machine import DATA, DATA_BYTES, Machine
from conformance.record import Measure
from conformance.waiting import until
from suites.provenances import (
    PATTERN_BYTES,
    RESERVED_KIB,
    SECOND_DATA,
    SECOND_DATA_BYTES,
    STEADY_MEMORY_MIB,
    STEADY_VCPUS,
    Steady,
)
from suites.wire import IP_UDP_HEADERS, wait_echo, wait_ping

requirement = pytest.mark.requirement
pytestmark = pytest.mark.steady


@requirement("id.smbios-uuid-matches")
def test_id_smbios_uuid_matches(driver: Driver, steady_machine: Machine) -> None:
    assert steady_machine.guest.identity().smbios_uuid == driver.get(steady_machine.id).uuid.lower()
    assert steady_machine.domain().uuid == steady_machine.uuid


@requirement("boot.cpu-count")
def test_boot_cpu_count(steady_machine: Machine) -> None:
    assert steady_machine.guest.cpus().online == STEADY_VCPUS
    assert steady_machine.domain().vcpus == STEADY_VCPUS


@requirement("boot.memory-size")
def test_boot_memory_size(steady_machine: Machine) -> None:
    wanted_kib = STEADY_MEMORY_MIB * 1024
    assert wanted_kib - RESERVED_KIB <= steady_machine.guest.memory().total_kib <= wanted_kib
    assert steady_machine.domain().memory_mib == STEADY_MEMORY_MIB


@requirement("boot.disk-size")
def test_boot_disk_size(steady_machine: Machine) -> None:
    sizes = {disk.serial: disk.size_bytes for disk in steady_machine.guest.disks()}
    assert sizes[DATA] == DATA_BYTES
    assert sizes[SECOND_DATA] == SECOND_DATA_BYTES
    domain, probe = steady_machine.domain(), steady_machine.probe()
    assert sorted(sizes.values()) == sorted(probe.disk_size(path) for path in domain.disk_paths)


@requirement("boot.disk-serial-exposed")
def test_boot_disk_serial_exposed(steady_machine: Machine) -> None:
    assert sorted(disk.serial for disk in steady_machine.guest.disks()) == sorted(["root", DATA, SECOND_DATA])


@requirement("boot.disk-order-stable")
def test_boot_disk_order_stable(steady: Steady) -> None:
    """Each serial shows the data that was written to that disk before the VM went the way of this provenance."""
    guest = steady.machine.guest
    assert {serial: guest.hash_disk(serial, 0, PATTERN_BYTES) for serial in steady.patterns} == steady.patterns


@requirement("boot.nic-count-and-mac")
def test_boot_nic_count_and_mac(steady_machine: Machine) -> None:
    wanted = [nic.mac for nic in steady_machine.spec.nics]
    assert [nic.mac for nic in steady_machine.guest.nics()] == wanted
    assert sorted(steady_machine.domain().macs) == sorted(wanted)


@requirement("boot.no-kernel-errors")
def test_boot_no_kernel_errors(steady_machine: Machine) -> None:
    assert not steady_machine.guest.kernel_problems()


@requirement("net.offload-correct")
def test_net_offload_correct(steady_machine: Machine) -> None:
    """A checksummed stream both ways: what offloading spoils, the receiver sees as corrupted or lost."""
    with steady_machine.peer.tcp_stream(steady_machine.address(), interval_ms=1) as stream:
        until("the stream to flow", lambda: stream.report().received > 100, seconds=steady_machine.pace.operation)
        report = stream.report()
    assert (report.corrupted, report.lost, report.duplicates, report.reset) == (0, 0, 0, False)


@requirement("net.mtu-path")
def test_net_mtu_path(steady_machine: Machine, lab: LabInventory) -> None:
    """On each of its networks: a NIC that came back on the wrong one does not answer there."""
    for nic in steady_machine.spec.nics:
        mtu, guest, peer = lab.network(nic.network).mtu, steady_machine.guest_on(nic), steady_machine.peer_on(nic)
        shown = guest.nic(nic.mac)
        assert shown is not None
        assert shown.mtu == mtu
        address = steady_machine.address(nic)
        wait_ping(steady_machine, address, mtu - IP_UDP_HEADERS, nic=nic)
        assert not peer.ping(address, payload_bytes=mtu - IP_UDP_HEADERS + 1, dont_fragment=True)
        wait_echo(steady_machine, peer.ipv4, mtu - IP_UDP_HEADERS, nic=nic)
        assert not guest.echo(peer.ipv4, mtu - IP_UDP_HEADERS + 1)


@requirement("console.log-has-boot")
def test_console_log_has_boot(driver: Driver, steady_machine: Machine) -> None:
    token = f"token-{steady_machine.uuid}"
    steady_machine.guest.print_console(token)
    console = driver.facet(Console)
    until(
        "the token on the console",
        lambda: token.encode() in console.console_log(steady_machine.id),
        seconds=steady_machine.pace.settle,
    )


@requirement("agent.exec-and-ip")
def test_agent_exec_and_ip(driver: Driver, steady_machine: Machine) -> None:
    address = steady_machine.address()
    until(
        "the driver to know the address",
        lambda: driver.addresses(steady_machine.id),
        lambda addresses: address in addresses,
        seconds=steady_machine.pace.settle,
    )


@requirement("time.wall-at-boot")
def test_time_wall_at_boot(steady_machine: Machine, measured: Measure) -> None:
    measured("clock error", steady_machine.wall_clock_error(), "s", at_most=2.0)


@requirement("time.monotonic")
def test_time_monotonic(steady_machine: Machine) -> None:
    readings = [steady_machine.guest.clocks().monotonic_ns for _ in range(20)]
    assert readings == sorted(readings)
    assert readings[-1] > readings[0]
