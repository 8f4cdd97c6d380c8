"""libvirt's errors in our tree: nothing unknown is swallowed, and message and code are kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from conformance.errors import (
    AccessDenied,
    Busy,
    DriverError,
    Exists,
    HostUnreachable,
    HypervisorFailure,
    InvalidRequest,
    InvalidState,
    NotFound,
    Unsupported,
)
from drivers.libvirt import errors

libvirt = pytest.importorskip("libvirt", reason="libvirt-python is not installed")


def raised(code: int, domain: int = 10, message: str = "its own words") -> SimpleNamespace:
    return SimpleNamespace(
        get_error_code=lambda: code, get_error_domain=lambda: domain, get_error_message=lambda: message
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("VIR_ERR_NO_DOMAIN", NotFound),
        ("VIR_ERR_NO_DOMAIN_SNAPSHOT", NotFound),
        ("VIR_ERR_STORAGE_VOL_EXIST", Exists),
        ("VIR_ERR_OPERATION_INVALID", InvalidState),
        ("VIR_ERR_OPERATION_UNSUPPORTED", Unsupported),
        ("VIR_ERR_XML_ERROR", InvalidRequest),
        ("VIR_ERR_OPERATION_TIMEOUT", Busy),
        ("VIR_ERR_AUTH_FAILED", AccessDenied),
        ("VIR_ERR_NO_CONNECT", HostUnreachable),
        ("VIR_ERR_OPERATION_FAILED", HypervisorFailure),
        ("VIR_ERR_INTERNAL_ERROR", HypervisorFailure),
    ],
)
def test_each_code_has_its_kind(name: str, kind: type[DriverError]) -> None:
    code = getattr(libvirt, name)
    error = errors.translate(raised(code), operation="start", vm="v", host="a")
    assert type(error) is kind
    assert (error.message, error.code) == ("its own words", code)
    assert (error.operation, error.vm, error.host) == ("start", "v", "a")


def test_a_code_that_nobody_knows_is_a_failure() -> None:
    assert type(errors.translate(raised(99999))) is HypervisorFailure


def test_every_code_in_the_table_exists() -> None:
    assert [name for name in errors.CODES if not hasattr(libvirt, name)] == []


@pytest.mark.parametrize("domain", ["VIR_FROM_RPC", "VIR_FROM_REMOTE"])
def test_a_broken_link_is_the_hosts_not_the_hypervisors(domain: str) -> None:
    error = raised(libvirt.VIR_ERR_INTERNAL_ERROR, getattr(libvirt, domain))
    assert errors.kind_of(error) is HostUnreachable
    assert errors.kind_of(raised(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU)) is HypervisorFailure


def test_an_invalid_state_names_the_state() -> None:
    error = errors.translate(raised(libvirt.VIR_ERR_OPERATION_INVALID), state=lambda: "paused")
    assert isinstance(error, InvalidState)
    assert error.current == "paused"


def test_inside_the_guard_libvirts_error_becomes_ours() -> None:
    with pytest.raises(NotFound) as caught, errors.translated(operation="get", vm="v"):
        libvirt.open("test:///default").lookupByName("no such domain")
    assert caught.value.code == libvirt.VIR_ERR_NO_DOMAIN
