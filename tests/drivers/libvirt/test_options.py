"""Options of a target: every mistake is named before a host is contacted."""

from __future__ import annotations

import sys

import pytest

from conformance.driver import FACETS
from conformance.errors import HostUnreachable, LabFileError, MissingRequirement
from conformance.lab.inventory import Target
from conformance.model import Capability
from drivers.libvirt import LibvirtDriver, binding, options
from drivers.libvirt.connection import Hosts
from drivers.libvirt.kvm import KVM


def target(**values: object) -> Target:
    return Target(slug="kvm", driver="libvirt", hosts=["a", "b"], options=values)


def test_a_host_without_a_uri_is_named() -> None:
    with pytest.raises(LabFileError, match="no URI for b"):
        options.parse(target(uris={"a": "qemu:///system"}), options.Options)


def test_an_unknown_or_wrong_option_is_named_with_its_place() -> None:
    with pytest.raises(LabFileError) as caught:
        options.parse(target(uris={"a": "x", "b": "y"}, colour="red", migrate={"mode": "fast"}), options.Options)
    assert "colour" in str(caught.value)
    assert "migrate.mode" in str(caught.value)


def test_the_driver_names_every_option_that_it_reads() -> None:
    assert LibvirtDriver.option_names == frozenset(options.Options.model_fields)


def test_every_capability_of_the_flavour_has_its_facet() -> None:
    missing = [key for key in KVM.capabilities if key in FACETS and not issubclass(LibvirtDriver, FACETS[key])]
    assert missing == []
    assert Capability.SNAPSHOT_EXCLUDE_DISK not in KVM.capabilities


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
