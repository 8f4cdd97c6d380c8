"""What libvirt's errors mean in our tree: one table, and nothing is swallowed.

The codes are from libvirt's ``include/libvirt/virterror.h``, where they never change. What is not in the table is a
`HypervisorFailure`; message and code are kept in every case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

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
from drivers.libvirt.binding import lv

CODES: Mapping[str, type[DriverError]] = {
    "VIR_ERR_NO_DOMAIN": NotFound,
    "VIR_ERR_NO_NETWORK": NotFound,
    "VIR_ERR_NO_INTERFACE": NotFound,
    "VIR_ERR_NO_STORAGE_POOL": NotFound,
    "VIR_ERR_NO_STORAGE_VOL": NotFound,
    "VIR_ERR_NO_DOMAIN_SNAPSHOT": NotFound,
    "VIR_ERR_NO_NWFILTER": NotFound,
    "VIR_ERR_DEVICE_MISSING": NotFound,
    "VIR_ERR_DOM_EXIST": Exists,
    "VIR_ERR_STORAGE_VOL_EXIST": Exists,
    "VIR_ERR_OPERATION_INVALID": InvalidState,
    "VIR_ERR_SNAPSHOT_REVERT_RISKY": InvalidState,
    "VIR_ERR_NO_SUPPORT": Unsupported,
    "VIR_ERR_OPERATION_UNSUPPORTED": Unsupported,
    "VIR_ERR_CONFIG_UNSUPPORTED": Unsupported,
    "VIR_ERR_ARGUMENT_UNSUPPORTED": Unsupported,
    "VIR_ERR_INVALID_ARG": InvalidRequest,
    "VIR_ERR_XML_ERROR": InvalidRequest,
    "VIR_ERR_XML_DETAIL": InvalidRequest,
    "VIR_ERR_XML_INVALID_SCHEMA": InvalidRequest,
    "VIR_ERR_MIGRATE_UNSAFE": InvalidRequest,
    # libvirt gives up after 30 s when another call, of any process, holds the domain's job
    "VIR_ERR_OPERATION_TIMEOUT": Busy,
    "VIR_ERR_RESOURCE_BUSY": Busy,
    "VIR_ERR_BLOCK_COPY_ACTIVE": Busy,
    "VIR_ERR_AUTH_FAILED": AccessDenied,
    "VIR_ERR_AUTH_CANCELLED": AccessDenied,
    "VIR_ERR_AUTH_UNAVAILABLE": AccessDenied,
    "VIR_ERR_OPERATION_DENIED": AccessDenied,
    "VIR_ERR_ACCESS_DENIED": AccessDenied,
    "VIR_ERR_NO_CONNECT": HostUnreachable,
    "VIR_ERR_INVALID_CONN": HostUnreachable,
    "VIR_ERR_RPC": HostUnreachable,
}
"""libvirt's error codes by name, whatever part of libvirt they come from."""

LINK_CODES = ("VIR_ERR_SYSTEM_ERROR", "VIR_ERR_INTERNAL_ERROR")
"""From the RPC layer these mean that the connection is gone; from anywhere else, that the hypervisor failed."""

LINK_DOMAINS = ("VIR_FROM_RPC", "VIR_FROM_REMOTE")


def kind_of(error: object) -> type[DriverError]:
    """The class of our tree for a `libvirtError`."""
    code, domain = error.get_error_code(), error.get_error_domain()  # type: ignore[attr-defined]
    if code in _numbers(LINK_CODES) and domain in _numbers(LINK_DOMAINS):
        return HostUnreachable
    for name, kind in CODES.items():
        if getattr(lv, name, None) == code:
            return kind
    return HypervisorFailure


def _numbers(names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(getattr(lv, name) for name in names)


def translate(
    error: object,
    *,
    operation: str = "",
    vm: str | None = None,
    host: str | None = None,
    state: Callable[[], str] = lambda: "unknown",
) -> DriverError:
    """`error`, a `libvirtError`, as one of our tree.

    Args:
        state: Tells the VM's power state, asked only where the error is about it.
    """
    kind = kind_of(error)
    message = error.get_error_message() or str(error)  # type: ignore[attr-defined]
    code = error.get_error_code()  # type: ignore[attr-defined]
    if kind is InvalidState:
        return InvalidState(message, current=state(), operation=operation, vm=vm, host=host, code=code)
    if kind is Unsupported:
        return Unsupported(message, capability=operation or "libvirt", operation=operation, vm=vm, host=host, code=code)
    return kind(message, operation=operation, vm=vm, host=host, code=code)


@contextmanager
def translated(
    *, operation: str = "", vm: str | None = None, host: str | None = None, state: Callable[[], str] = lambda: "unknown"
) -> Iterator[None]:
    """Turn any `libvirtError` raised inside into one of our tree."""
    try:
        yield
    except lv.libvirtError as error:
        raise translate(error, operation=operation, vm=vm, host=host, state=state) from error
