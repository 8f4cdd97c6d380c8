"""What PowerShell's error records mean in our tree: tables, and nothing is swallowed.

A record is judged by what does not depend on the host's language, in this order: error codes (its own HRESULT, or those
that the Hyper-V module puts in parentheses into its message), its error id, its exception, its category. What no table
knows is a `HypervisorFailure`; message and code are kept in every case.
"""

from __future__ import annotations

import re
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
    QuotaExceeded,
    Timeout,
    Unsupported,
)
from drivers.hyperv.transport.base import RemoteError

CODES: Mapping[int, type[DriverError]] = {
    0x80070005: AccessDenied,  # E_ACCESSDENIED
    0x8009030E: AccessDenied,  # SEC_E_NO_CREDENTIALS: the second hop of a migration has no login to pass on
    0x800706BA: HostUnreachable,  # RPC_S_SERVER_UNAVAILABLE
    0x80070020: Busy,  # ERROR_SHARING_VIOLATION: a VHD in use
    0x80070050: Exists,  # ERROR_FILE_EXISTS
    0x800700B7: Exists,  # ERROR_ALREADY_EXISTS
    0x80070002: NotFound,  # ERROR_FILE_NOT_FOUND
    0x80070003: NotFound,  # ERROR_PATH_NOT_FOUND
    0x8007000E: QuotaExceeded,  # E_OUTOFMEMORY: not enough memory in the system to start the VM
    0x80070070: QuotaExceeded,  # ERROR_DISK_FULL
}
"""By HRESULT: winerror.h."""

ERROR_IDS: Mapping[str, type[DriverError]] = {
    "ObjectNotFound": NotFound,
    "AccessDenied": AccessDenied,
    "InvalidState": InvalidState,
    "ObjectInUse": Busy,
    "OutOfMemory": QuotaExceeded,
    "InvalidParameter": InvalidRequest,
    "CommandNotFoundException": Unsupported,
    "NamedParameterNotFound": Unsupported,
}
"""By the first part of ``FullyQualifiedErrorId``, before the comma."""

CATEGORIES: Mapping[str, type[DriverError]] = {
    "ObjectNotFound": NotFound,
    "ResourceExists": Exists,
    "ResourceBusy": Busy,
    "PermissionDenied": AccessDenied,
    "SecurityError": AccessDenied,
    "AuthenticationError": AccessDenied,
    "InvalidArgument": InvalidRequest,
    "InvalidData": InvalidRequest,
    "InvalidType": InvalidRequest,
    "LimitsExceeded": QuotaExceeded,
    "QuotaExceeded": QuotaExceeded,
    "NotImplemented": Unsupported,
    "OperationTimeout": Timeout,
    "ConnectionError": HostUnreachable,
}
"""By ``System.Management.Automation.ErrorCategory``."""

_HEX = re.compile(r"\(0x([0-9A-Fa-f]{8})\)")


def codes_of(error: RemoteError) -> tuple[int, ...]:
    """The error codes of a record, the most telling first.

    The Hyper-V module's own HRESULT is mostly that of a generic exception; the one of the failed job stands in the
    message as ``(0x8009030E)``, in every language.
    """
    inner = tuple(int(code, 16) for code in _HEX.findall(error.message))
    return (*inner, error.hresult) if error.hresult else inner


def kind_of(error: RemoteError) -> type[DriverError]:
    """The class of our tree for an error record."""
    for code in codes_of(error):
        if code in CODES:
            return CODES[code]
    return (
        ERROR_IDS.get(error.error_id.partition(",")[0])
        or CATEGORIES.get(error.category)
        or HypervisorFailure  # what is left has really failed
    )


def translate(
    error: RemoteError,
    *,
    operation: str = "",
    vm: str | None = None,
    host: str | None = None,
    state: Callable[[], str] = lambda: "unknown",
) -> DriverError:
    """`error` as one of our tree, with itself as the cause.

    Args:
        state: Tells the VM's power state, asked only where the error is about it.
    """
    kind = kind_of(error)
    codes = codes_of(error)
    code = f"0x{codes[0]:08X}" if codes else error.error_id or None
    where = {"operation": operation, "vm": vm, "host": host}
    made: DriverError
    if kind is InvalidState:
        made = InvalidState(error.message, current=state(), code=code, **where)  # type: ignore[arg-type]
    elif kind is Unsupported:
        made = Unsupported(error.message, capability=operation or "cmdlet", code=code, **where)  # type: ignore[arg-type]
    elif kind is Timeout:
        made = Timeout(error.message, phase="on the host", last_state=state(), code=code, **where)  # type: ignore[arg-type]
    else:
        made = kind(error.message, code=code, **where)  # type: ignore[arg-type]
    made.__cause__ = error
    return made


@contextmanager
def translated(
    *, operation: str = "", vm: str | None = None, host: str | None = None, state: Callable[[], str] = lambda: "unknown"
) -> Iterator[None]:
    """Name operation, VM and state in the errors that a transport raises inside."""
    try:
        yield
    except DriverError as error:
        if isinstance(error.__cause__, RemoteError):
            cause = error.__cause__
            raise translate(cause, operation=operation, vm=vm, host=host or error.host, state=state) from cause
        error.operation = operation or error.operation
        error.vm = vm or error.vm
        error.host = error.host or host
        raise
