"""The probe of Hyper-V hosts, on the double: it sees what is there, and its faults fire or say that they did not."""

from __future__ import annotations

import pytest

from conformance.errors import FaultNotFired, HostDown, LabError, LabFileError, ProbeFailed
from conformance.model import Evidence
from conformance.observers.host import HostDomain, Kind
from labs.hyperv_hosts import HypervHostsLab
from labs.hyperv_hosts.look import guest_uuid
from labs.hyperv_hosts.session import Session
from labs.simulated.observers.probe import SimulatedProbe
from tests.hyperv.conftest import Bench


def shown(domains: list[HostDomain]) -> set[tuple[object, ...]]:
    return {
        (domain.uuid, domain.name, domain.running, domain.paused, domain.vcpus, domain.memory_mib, domain.macs)
        for domain in domains
    }


def test_it_sees_what_the_world_holds(hv: Bench) -> None:
    world = hv.running.site.world
    hv.create()
    paused, _, _ = hv.boot()
    hv.driver.pause(paused).wait()
    saved, _, _ = hv.boot(image="hvconform-bios")
    hv.driver.suspend(saved).wait()
    hv.boot(vcpus=2, host="b")
    for name, host in world.hosts.items():
        seen = hv.observers.host(name)
        assert shown(list(seen.domains())) == shown(list(SimulatedProbe(world, host).domains()))
    kinds = {entry.kind for entry in hv.inventory()}
    assert kinds == {Kind.DOMAIN, Kind.PROCESS, Kind.FILE, Kind.INTERFACE, Kind.MOUNT}
    assert any("saved state" in entry.name for entry in hv.inventory())


def test_vcpu_time_stands_still_while_paused(hv: Bench) -> None:
    vm, _, _ = hv.boot()
    probe = hv.observers.host("a")

    def spent() -> float:
        hv.observers.clock.sleep(1.0)  # type: ignore[union-attr]  # the double has one
        return probe.domains()[0].vcpu_seconds

    assert 0 < spent() < spent()
    hv.driver.pause(vm).wait()
    assert spent() == spent()


def test_files(hv: Bench) -> None:
    probe, image = hv.observers.host("a"), hv.lab.images[0]
    assert probe.exists(str(image.path))
    assert not probe.exists(f"{image.path}x")
    assert not probe.exists("D:\\hv\\no\\folder\\x")
    assert probe.file_hash(str(image.path)) == image.sha256
    assert probe.disk_size(str(image.path)) == image.size_bytes
    with pytest.raises(ProbeFailed):
        probe.file_hash("D:\\hv\\nothing")
    with probe.take_away(str(image.path)):
        assert not probe.exists(str(image.path))
    assert probe.exists(str(image.path))


def test_faults_fire(hv: Bench) -> None:
    vm, _, guest = hv.boot(storage="local")
    uuid, probe = hv.driver.get(vm).uuid, hv.observers.host("a")
    mark = probe.log_mark()
    probe.restart_management()
    assert "vmms restarted" in probe.log_since(mark)
    assert guest.answers()
    with probe.fill_storage("local"), pytest.raises(FaultNotFired), probe.fill_storage("local"):
        raise AssertionError("a volume was filled twice")
    with probe.cut_link_to("b"):
        assert hv.running.site.world.hosts["a"].cut_from == {"b"}
    assert hv.running.site.world.hosts["a"].cut_from == set()
    before = probe.inventory()
    with probe.create_canary("canary") as canary:
        assert (canary.running, canary.name) == (True, "canary")
    assert probe.inventory() == before
    probe.kill_vm(uuid)
    assert not probe.domains()[0].running


def test_faults_that_do_not_fire_say_so(hv: Bench) -> None:
    probe = hv.observers.host("a")
    nobody = "00000000-0000-4000-8000-000000000000"
    for fault in (probe.kill_vm, probe.stop_out_of_band):
        with pytest.raises(FaultNotFired):
            fault(nobody)
    with pytest.raises(FaultNotFired), probe.take_away("D:\\hv\\nothing"):
        raise AssertionError("nothing was taken away")
    with pytest.raises(LabError), probe.cut_link_to("nowhere"):
        raise AssertionError("a link to nowhere was cut")


def test_a_link_that_still_connects_was_not_cut(hv: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    host = hv.running.site.world.hosts["a"]
    monkeypatch.setattr(host, "cut_from", type("Deaf", (set,), {"add": lambda *_: None})())
    with pytest.raises(FaultNotFired), hv.observers.host("a").cut_link_to("b"):
        raise AssertionError("the cut was believed")
    assert hv.running.site.rules["a"] == {}


def test_a_host_that_does_not_answer_is_the_labs_fault(hv: Bench) -> None:
    probe = hv.observers.host("a")
    probe.domains()
    hv.running.endpoints["a"].close()
    with pytest.raises(HostDown):
        probe.domains()
    assert probe.health()


def test_a_wrong_password_is_the_labs_fault(hv: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = hv.lab.hosts[0].shell
    monkeypatch.setenv("WRONG", "wrong")
    wrong = shell.model_copy(update={"password_env": "WRONG"})
    session = Session("a", wrong)  # type: ignore[arg-type]  # of kind winrm in this lab
    with pytest.raises(HostDown) as down:
        session.ask(("Get-VM", {}), select=("Id",))
    assert "wrong" not in str(down.value)
    session.close()


def test_hardware_is_not_the_double(hv: Bench) -> None:
    claims = hv.lab.model_copy(update={"kind": "hyperv", "evidence": Evidence.HARDWARE})
    with pytest.raises(LabError, match="own double"):
        HypervHostsLab.observe(claims)


def test_hosts_need_a_shell_of_their_kind(hv: Bench) -> None:
    hosts = [host.model_copy(update={"shell": hv.lab.networks[0].peer}) for host in hv.lab.hosts]
    with pytest.raises(LabFileError, match="winrm"):
        HypervHostsLab.observe(hv.lab.model_copy(update={"kind": "hyperv", "hosts": hosts}))


def test_the_uuid_of_generation_1_is_turned_round() -> None:
    given = "{00112233-4455-6677-8899-AABBCCDDEEFF}"
    assert guest_uuid(given, first_generation=True) == "33221100-5544-7766-8899-aabbccddeeff"
    assert guest_uuid(given, first_generation=False) == "00112233-4455-6677-8899-aabbccddeeff"
