"""The network: who hears what, who is learned where, and what a rule drops."""

from __future__ import annotations

from collections.abc import Callable

from conformance.model import MigrateOptions, NicSpec
from drivers.defects import apply
from labs.simulated.world import frames
from tests.simulated.conftest import Bench

FORGED = "52:54:00:ff:ff:01"


def _forged(source: str) -> bytes:
    return frames.ethernet(frames.BROADCAST, source, 0x88B5, b"forged".ljust(46, b"\0"))


def test_networks_do_not_hear_each_other(bench: Bench) -> None:
    _, spec, guest = bench.boot()
    mac = spec.nics[0].mac
    net1, net2 = bench.observers.peer("net1"), bench.observers.peer("net2")
    with net1.sniff(source=mac) as here, net2.sniff(source=mac) as there:
        guest.send_frame(mac, _forged(mac))
        assert here.frames()
        assert not there.frames()


def test_anti_spoofing_drops_a_foreign_source_and_its_absence_does_not(bench: Bench) -> None:
    for guarded in (True, False):
        number = 1 + guarded
        nic = NicSpec("net1", f"52:54:00:0a:00:{number:02x}", anti_spoof=guarded)
        _, spec, guest = bench.boot(nics=(nic,))
        with bench.observers.peer("net1").sniff(source=FORGED) as sniffer:
            guest.send_frame(spec.nics[0].mac, _forged(FORGED))
            assert bool(sniffer.frames()) is not guarded


def test_anti_spoofing_lets_the_guest_work(bench: Bench) -> None:
    nic = NicSpec("net1", "52:54:00:0b:00:01", anti_spoof=True)
    _, spec, guest = bench.boot(nics=(nic,))
    peer = bench.observers.peer("net1")
    address = peer.lease(spec.nics[0].mac)
    assert address is not None
    assert peer.ping(address)
    assert guest.echo(peer.ipv4)
    assert guest.echo(peer.ipv6)


def test_only_what_fits_the_mtu_passes(bench: Bench) -> None:
    _, spec, guest = bench.boot()
    peer = bench.observers.peer("net1")
    address = peer.lease(spec.nics[0].mac)
    assert address is not None
    assert peer.ping(address, payload_bytes=1472, dont_fragment=True)
    assert not peer.ping(address, payload_bytes=1473, dont_fragment=True)
    assert peer.ping(address, payload_bytes=4000)
    assert guest.echo(peer.ipv4, 1472)
    assert not guest.echo(peer.ipv4, 1473)


def test_a_pulled_cable_is_silence(bench: Bench) -> None:
    vm, spec, guest = bench.boot()
    nic = bench.driver.get(vm).nics[0].id
    bench.driver.set_link(vm, nic, False).wait()
    assert not guest.answers()
    bench.driver.set_link(vm, nic, True).wait()
    assert guest.answers()
    assert spec.nics


def test_traffic_follows_a_vm_only_after_the_announcement(make_bench: Callable[..., Bench]) -> None:
    for defect, reached in (("", True), ("mig-no-announce", False)):
        bench = make_bench()
        if defect:
            apply(bench.driver, defect)
        vm, spec, _ = bench.boot()
        mac = spec.nics[0].mac
        bench.driver.migrate(vm, "b", MigrateOptions()).wait()
        assert (bench.world.networks["net1"].where(mac) == "b") is reached


def test_a_stream_counts_every_record_and_sees_an_outage(bench: Bench) -> None:
    vm, spec, _ = bench.boot()
    peer = bench.observers.peer("net1")
    address = peer.lease(spec.nics[0].mac)
    assert address is not None
    with peer.tcp_stream(address, interval_ms=10) as stream:
        bench.sleep(1.0)
        calm = stream.report()
        bench.driver.pause(vm).wait()
        bench.sleep(0.5)
        bench.driver.resume(vm).wait()
        bench.sleep(0.5)
        after = stream.report()
        bench.driver.reboot(vm).wait()
        bench.sleep(2.0)
        broken = stream.report()

    assert (calm.received, calm.lost, calm.longest_gap_ms) == (100, 0, 10.0)
    assert (after.lost, after.duplicates, after.reset) == (0, 0, False)
    assert after.longest_gap_ms >= 500
    assert broken.reset


def test_heartbeats_stop_when_the_guest_does(bench: Bench) -> None:
    vm, _, guest = bench.boot()
    peer = bench.observers.peer("net1")
    with peer.heartbeats(vm) as beats:
        guest.start_heartbeat(peer.ipv4, peer.heartbeat_port, 10)
        bench.sleep(1.0)
        before = beats.report().received
        bench.driver.pause(vm).wait()
        bench.sleep(1.0)
        assert beats.report().received == before > 90
        assert beats.report().longest_gap_ms >= 990
