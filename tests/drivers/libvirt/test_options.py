"""Options of a target: every mistake is named before a host is contacted."""

from __future__ import annotations

import sys

import pytest

from conformance.driver import FACETS
from conformance.errors import HostUnreachable, LabFileError, MissingRequirement
from conformance.lab.inventory import Target
from conformance.model import Capability
from drivers.libvirt import LibvirtDriver, binding, options
from drivers.libvirt.connection import Hosts, _asks_nothing
from drivers.libvirt.kvm import KVM


def target(**values: object) -> Target:
    return Target(slug="kvm", driver="libvirt", hosts=["a", "b"], options=values)


def test_a_host_without_a_uri_is_named() -> None:
    with pytest.raises(LabFileError, match="no URI for b"):
        options.parse(target(uris={"a": "qemu:///system"}), options.Options)


def test_an_unknown_or_wrong_option_is_named_with_its_place() -> None:
    with pytest.raises(LabFileError) as caught:
        options.parse(
            target(uris={"a": "qemu:///system", "b": "qemu+ssh:///system"}, colour="red", migrate={"mode": "fast"}),
            options.Options,
        )
    assert "colour" in str(caught.value)
    assert "migrate.mode" in str(caught.value)


def test_the_driver_names_every_option_that_it_reads() -> None:
    assert LibvirtDriver.option_names == frozenset(options.Options.model_fields)


def test_every_capability_of_the_flavour_has_its_facet() -> None:
    missing = [key for key in KVM.capabilities if key in FACETS and not issubclass(LibvirtDriver, FACETS[key])]
    assert missing == []
    assert Capability.SNAPSHOT_EXCLUDE_DISK not in KVM.capabilities


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("kvm1", "no libvirt URI"),
        ("qemu+ssh:/system", "no libvirt URI"),
        ("qemu+ssh://root@kvm1:ssh/system", "Port"),
        ("qemu+ssh://root:geheim@kvm1/system", "a password has no place in a URI"),
    ],
)
def test_what_is_no_uri_is_named_and_never_repeated(uri: str, why: str) -> None:
    with pytest.raises(LabFileError, match=f"uris.b: .*{why}") as caught:
        options.parse(target(uris={"a": "qemu:///system", "b": uri}), options.Options)
    assert "geheim" not in str(caught.value)


def test_a_missing_library_is_a_missing_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "_module", None)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(MissingRequirement, match="hvconform\\[libvirt\\]"):
        binding.load()


def test_a_host_that_is_off_is_unreachable_in_bounded_time() -> None:
    pytest.importorskip("libvirt")
    with pytest.raises(HostUnreachable) as caught:
        Hosts({"a": "qemu+tcp://127.0.0.1:1/system?pkipath=/secret/place"}).get("a")
    assert "127.0.0.1" in str(caught.value)
    assert "/secret/place" not in str(caught.value)
    assert "virsh" in caught.value.hint


def test_a_password_that_is_nowhere_is_a_missing_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("libvirt")
    monkeypatch.delenv("HVC_TEST_PASSWORD", raising=False)
    with pytest.raises(MissingRequirement) as caught:
        Hosts({"a": "qemu+tcp://127.0.0.1:1/system"}, user="me", password_env="HVC_TEST_PASSWORD").get("a")
    assert "HVC_TEST_PASSWORD" in caught.value.hint


@pytest.mark.parametrize(
    ("uri", "opened"),
    [
        ("qemu+ssh://kvm1/system", "qemu+ssh://kvm1/system?no_tty=1"),
        ("qemu+ssh://kvm1/system?keyfile=/k", "qemu+ssh://kvm1/system?keyfile=/k&no_tty=1"),
        ("qemu+ssh://kvm1/system?no_tty=0", "qemu+ssh://kvm1/system?no_tty=0"),
        ("qemu+unix:///system?socket=/s", "qemu+unix:///system?socket=/s"),
    ],
)
def test_ssh_never_asks_on_a_terminal(uri: str, opened: str) -> None:
    assert _asks_nothing(uri) == opened
