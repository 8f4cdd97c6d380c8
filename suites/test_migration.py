"""Migration: the VM is the same before and after, and at no instant are there two of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface

import pytest

from conformance.driver import Driver, Migrate, Pause
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.machine import DATA, Machine, Machines
from conformance.model import MIB, Capability, MigrateOptions, PowerState, RebootMode, StopMode
from conformance.observers.guest import Resolver
from conformance.observers.host import Kind
from conformance.observers.wire import Stream
from conformance.record import Measure
from conformance.waiting import until
from suites.wire import forged_mac, passes, token, wait_ping

requirement = pytest.mark.requirement
needs = pytest.mark.capability

DOWNTIME_MS = 2000.0
"""The longest outage that any guest's users would still call live, on the slowest lab."""


@pytest.fixture
def migration(driver: Driver) -> Migrate:
    return driver.facet(Migrate)


@contextmanager
def heartbeats(machine: Machine, interval_ms: int = 10) -> Iterator[Stream]:
    """A sequenced UDP stream from the guest to the wire peer, flowing before the body starts."""
    peer = machine.peer
    with peer.heartbeats(machine.uuid) as stream:
        machine.guest.start_heartbeat(peer.ipv4, peer.heartbeat_port, interval_ms)
        flows(machine, stream)
        yield stream


def flows(machine: Machine, stream: Stream) -> None:
    """Wait until a stream has brought more than it had."""
    so_far = stream.report().received
    until("the stream to flow", lambda: stream.report().received, lambda n: n > so_far + 5, seconds=machine.pace.settle)


@requirement("mig.same-boot")
def test_mig_same_boot(migration: Migrate, machine: Machine) -> None:
    before = machine.guest.boot()
    machine.guest.put_ram("marker", "kept")
    machine.guest.fill_ram(16, seed=201)

    migration.migrate(machine.id, machine.other_host()).wait()

    after = machine.guest.boot()
    assert after.boot_id == before.boot_id
    assert after.uptime_ms >= before.uptime_ms
    assert machine.guest.get_ram("marker") == "kept"
    assert machine.guest.ram_intact(201)


@requirement("mig.runs-on-target")
def test_mig_runs_on_target(migration: Migrate, machine: Machine) -> None:
    target = machine.other_host()

    migration.migrate(machine.id, target).wait()

    assert machine.running_on() == [target]
    assert [domain.host for domain in machine.domains()] == [target], "the source still knows the VM"


@requirement("mig.never-two")
def test_mig_never_two(migration: Migrate, machine: Machine) -> None:
    target = machine.other_host()
    sightings: list[list[str]] = []

    with heartbeats(machine) as stream:
        migrating = migration.migrate(machine.id, target)

        def ended() -> bool:
            sightings.append([domain.host for domain in machine.domains() if domain.running and not domain.paused])
            return migrating.done()

        until("the migration to end", ended, seconds=machine.pace.operation)
        migrating.wait()
        flows(machine, stream)
        report = stream.report()

    assert not [hosts for hosts in sightings if len(hosts) > 1], "vCPUs ran on two hosts at once"
    assert (report.duplicates, report.restarts) == (0, 0)
    assert machine.running_on() == [target]


@requirement("mig.host-reported")
def test_mig_host_reported(driver: Driver, migration: Migrate, machine: Machine) -> None:
    assert driver.get(machine.id).host == machine.domain().host

    migration.migrate(machine.id, machine.other_host()).wait()

    until(
        "the driver to report the real host",
        lambda: driver.get(machine.id).host,
        lambda host: host == machine.domain().host,
        seconds=machine.pace.settle,
    )


@requirement("mig.tcp-survives")
def test_mig_tcp_survives(migration: Migrate, machine: Machine, measured: Measure) -> None:
    with machine.peer.tcp_stream(machine.address()) as stream:
        flows(machine, stream)
        migration.migrate(machine.id, machine.other_host()).wait()
        flows(machine, stream)
        report = stream.report()

    measured("longest gap in the stream", report.longest_gap_ms, "ms")
    assert not report.reset
    assert (report.lost, report.duplicates, report.corrupted, report.restarts) == (0, 0, 0, 0)


@requirement("mig.downtime-bound")
def test_mig_downtime_bound(migration: Migrate, machine: Machine, measured: Measure) -> None:
    with heartbeats(machine) as stream:
        migration.migrate(machine.id, machine.other_host()).wait()
        flows(machine, stream)
        report = stream.report()

    assert report.longest_gap_ms > 0
    measured("longest gap", report.longest_gap_ms, "ms", at_most=DOWNTIME_MS)


@requirement("mig.no-duplicate-packets")
def test_mig_no_duplicate_packets(migration: Migrate, machine: Machine) -> None:
    with heartbeats(machine) as stream:
        migration.migrate(machine.id, machine.other_host()).wait()
        flows(machine, stream)

        assert stream.report().duplicates == 0


@requirement("mig.mac-ip-same")
def test_mig_mac_ip_same(migration: Migrate, machine: Machine, lab: LabInventory) -> None:
    address = machine.address()
    prefix = lab.network(machine.spec.nics[0].network).ipv6

    def network() -> tuple[list[tuple[str, list[str]]], Resolver]:
        guest = machine.guest
        return [(nic.mac, sorted(nic.addresses)) for nic in guest.nics()], guest.resolver()

    def complete(found: tuple[list[tuple[str, list[str]]], Resolver]) -> bool:
        ips = [ip_interface(each).ip for each in dict(found[0])[machine.mac]]
        advertised = prefix is None or (any(ip in prefix for ip in ips) and found[1].gateway6 != "")
        return ip_address(address) in ips and advertised

    # what comes to the guest by itself after its boot is no change of the migration's
    before = until("all the addresses of the guest", network, complete, seconds=machine.pace.boot)

    migration.migrate(machine.id, machine.other_host()).wait()

    assert network() == before
    wait_ping(machine, address)


@requirement("mig.switch-learns")
def test_mig_switch_learns(migration: Migrate, machine: Machine) -> None:
    """The guest says nothing by itself here: what teaches the switches must come from the hypervisor."""
    with machine.peer.sniff(source=machine.mac) as sniffer:
        migration.migrate(machine.id, machine.other_host()).wait()
        announced = until(
            "an announcement from the target",
            lambda: [frame for frame in sniffer.frames() if frame.destination == "ff:ff:ff:ff:ff:ff"],
            seconds=machine.pace.settle,
        )

    assert announced
    # soon: in time the peer would look for the guest by broadcast, and the guest's own answer would teach the switches
    wait_ping(machine, machine.address(), seconds=machine.pace.glance)


@requirement("mig.disk-consistent")
def test_mig_disk_consistent(driver: Driver, migration: Migrate, machines: Machines, machine: Machine) -> None:
    slots = 256
    machine.guest.start_writer(DATA, 0, slots, interval_ms=2)
    until("the writer to get going", lambda: machine.guest.writer().acknowledged > 10, seconds=machine.pace.settle)

    migration.migrate(machine.id, machine.other_host()).wait()

    at_end = machine.guest.writer().acknowledged
    until("the writer to go on", lambda: machine.guest.writer().acknowledged > at_end, seconds=machine.pace.settle)
    status = machine.guest.stop_writer()
    assert status.errors == 0
    # what the host holds, not what the guest remembers: after a power cycle on the target
    driver.stop(machine.id, StopMode.FORCE).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.newest_written(DATA, 0, slots) >= status.acknowledged


@requirement("mig.block-migration-content")
def test_mig_block_migration_content(
    migration: Migrate, machines: Machines, observers: Observers, driver: Driver
) -> None:
    machine = machines.boot(storage=machines.storage(shared=False).name)
    written = machine.guest.write_pattern(DATA, 0, 8 * MIB, seed=202)
    untouched = machine.guest.hash_disk(DATA, 8 * MIB, 8 * MIB)
    before = machine.guest.boot()
    source, paths = machine.domain().host, machine.domain().disk_paths
    assert all(observers.host(source).exists(path) for path in paths)

    migration.migrate(machine.id, machine.other_host(), MigrateOptions(copy_storage=True)).wait()

    assert machine.guest.boot().boot_id == before.boot_id
    driver.stop(machine.id, StopMode.FORCE).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.hash_disk(DATA, 0, 8 * MIB) == written
    assert machine.guest.hash_disk(DATA, 8 * MIB, 8 * MIB) == untouched
    assert not [path for path in paths if observers.host(source).exists(path)], "disks were left on the source"


@requirement("mig.shared-storage-not-deleted")
def test_mig_shared_storage_not_deleted(
    driver: Driver, migration: Migrate, machines: Machines, observers: Observers
) -> None:
    machine = machines.boot(storage=machines.storage(shared=True).name)
    written = machine.guest.write_pattern(DATA, 0, 4 * MIB, seed=203)
    paths = machine.domain().disk_paths

    migration.migrate(machine.id, machine.other_host()).wait()

    assert all(machine.probe().exists(path) for path in paths)
    driver.stop(machine.id, StopMode.FORCE).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.guest.hash_disk(DATA, 0, 4 * MIB) == written
    assert observers.host(machine.other_host()).exists(paths[0]), "the storage is not shared after all"


@requirement("mig.clock-monotonic")
def test_mig_clock_monotonic(migration: Migrate, machine: Machine) -> None:
    before = machine.guest.clocks()
    with heartbeats(machine) as stream:
        migration.migrate(machine.id, machine.other_host()).wait()
        flows(machine, stream)
        report = stream.report()

    assert report.monotonic_backwards == 0
    assert machine.guest.clocks().monotonic_ns > before.monotonic_ns
    assert report.longest_guest_gap_ms <= max(report.longest_gap_ms, 20.0) + 500.0


@requirement("mig.wall-clock")
def test_mig_wall_clock(migration: Migrate, machine: Machine, measured: Measure) -> None:
    migration.migrate(machine.id, machine.other_host()).wait()

    measured("clock error", machine.wall_clock_error(), "s", at_most=2.0)


@requirement("mig.cpu-flags-same")
def test_mig_cpu_flags_same(migration: Migrate, machine: Machine) -> None:
    before = machine.guest.cpus()

    migration.migrate(machine.id, machine.other_host()).wait()

    assert machine.guest.cpus() == before


@requirement("mig.device-topology-same")
def test_mig_device_topology_same(migration: Migrate, machine: Machine) -> None:
    def topology() -> object:
        guest = machine.guest
        return (
            [(disk.serial, disk.address, disk.size_bytes) for disk in guest.disks()],
            [(nic.mac, nic.address, nic.mtu, nic.queues) for nic in guest.nics()],
        )

    before = topology()

    migration.migrate(machine.id, machine.other_host()).wait()

    assert topology() == before


@requirement("mig.l2-policy-follows")
@needs(Capability.ANTI_SPOOF)
def test_mig_l2_policy_follows(migration: Migrate, machines: Machines, observers: Observers, lab: LabInventory) -> None:
    source = observers.host(lab.hosts[0].name)
    before = source.inventory()
    machine = machines.boot(nics=(machines.nic(anti_spoof=True),))
    mark = token()
    assert not passes(machine, forged_mac(machine, mark), mark), "forged frames passed before the migration"

    migration.migrate(machine.id, machine.other_host()).wait()

    mark = token()
    assert not passes(machine, forged_mac(machine, mark), mark), "the port is unguarded on the target"
    ports = {Kind.RULE, Kind.INTERFACE}
    assert not {entry for entry in source.inventory() - before if entry.kind in ports}, "left on the source"


@requirement("mig.config-persists")
def test_mig_config_persists(driver: Driver, migration: Migrate, machines: Machines, machine: Machine) -> None:
    migration.migrate(machine.id, machine.other_host()).wait()
    host, cpus, disks = machine.domain().host, machine.guest.cpus(), machine.guest.disks()

    before = machine.guest.boot()
    driver.reboot(machine.id, RebootMode.SOFT).wait()
    machines.wait_new_boot(machine, before)
    assert (machine.domain().host, machine.guest.cpus(), machine.guest.disks()) == (host, cpus, disks)

    driver.stop(machine.id, StopMode.GRACEFUL).wait()
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert (machine.domain().host, machine.guest.cpus(), machine.guest.disks()) == (host, cpus, disks)


@requirement("mig.paused-stays-paused")
@needs(Capability.PAUSE, Capability.MIGRATE_PAUSED)
def test_mig_paused_stays_paused(driver: Driver, migration: Migrate, machine: Machine) -> None:
    before = machine.guest.boot()
    target = machine.other_host()
    driver.facet(Pause).pause(machine.id).wait()

    migration.migrate(machine.id, target).wait()

    assert machine.domain().host == target
    assert machine.domain().paused
    assert not machine.guest.answers()
    driver.facet(Pause).resume(machine.id).wait()
    assert machine.guest.wait_up().boot_id == before.boot_id


@requirement("mig.back-and-forth")
def test_mig_back_and_forth(migration: Migrate, machine: Machine, observers: Observers, lab: LabInventory) -> None:
    def all_hosts() -> object:
        return [observers.host(host.name).inventory() for host in lab.hosts]

    before, start = machine.guest.boot(), all_hosts()

    for _ in range(2):
        for _ in range(2):
            migration.migrate(machine.id, machine.other_host()).wait()
        assert machine.guest.boot().boot_id == before.boot_id

    until("the hosts to look as at the start", all_hosts, lambda now: now == start, seconds=machine.pace.settle)


@requirement("mig.ipv6-transport")
def test_mig_ipv6_transport(migration: Migrate, machine: Machine) -> None:
    before, target = machine.guest.boot(), machine.other_host()

    migration.migrate(machine.id, target, MigrateOptions(uri_family=6)).wait()

    assert machine.running_on() == [target]
    assert machine.guest.boot().boot_id == before.boot_id


@requirement("mig.progress-monotonic")
def test_mig_progress_monotonic(migration: Migrate, machine: Machine) -> None:
    migrating = migration.migrate(machine.id, machine.other_host())
    seen: list[float] = []

    def ended() -> bool:
        seen.append(migrating.progress().fraction)
        return migrating.done()

    until("the migration to end", ended, seconds=machine.pace.operation)

    migrating.wait()
    assert seen == sorted(seen)
    assert migrating.progress().fraction == 1.0


@requirement("mig.console-follows")
def test_mig_console_follows(migration: Migrate, machine: Machine) -> None:
    migration.migrate(machine.id, machine.other_host()).wait()

    assert machine.serial.boot().boot_id == machine.guest.boot().boot_id


@requirement("cold.data-and-identity")
@needs(Capability.MIGRATE_COLD)
def test_cold_data_and_identity(driver: Driver, migration: Migrate, machines: Machines, machine: Machine) -> None:
    written = machine.guest.write_pattern(DATA, 0, MIB, seed=207)
    target = machine.other_host()
    driver.stop(machine.id, StopMode.GRACEFUL).wait()

    migration.migrate(machine.id, target, MigrateOptions(live=False)).wait()

    assert driver.get(machine.id).power is PowerState.STOPPED
    assert not machine.running_on()
    assert {domain.host for domain in machine.domains()} == {target}
    driver.start(machine.id).wait()
    machines.wait_up(machine)
    assert machine.running_on() == [target]
    assert machine.guest.hash_disk(DATA, 0, MIB) == written
    assert [nic.mac for nic in machine.guest.nics()] == [machine.mac]
