"""What goes wrong between us and a host's WinRM service, in the words of our error tree.

The fault codes are those of Microsoft's ``wsmerror.h`` and ``winerror.h``.
"""

from __future__ import annotations

from collections.abc import Mapping

import pypsrp.exceptions
import requests
import spnego.exceptions
import winrm.exceptions

from conformance.errors import (
    AccessDenied,
    DriverError,
    HostUnreachable,
    HypervisorFailure,
    LabError,
    MissingRequirement,
    QuotaExceeded,
    Timeout,
)
from drivers.hyperv.transport.settings import Secret
from drivers.hyperv.transport.wire import ConnectionGone

OPERATION_TIMEOUT = 2150858793  # ERROR_WSMAN_OPERATION_TIMEDOUT: nothing yet, ask again
SHELL_NOT_FOUND = 2150858843  # ERROR_WSMAN_UNEXPECTED_SELECTORS: no shell of this id any more

FAULTS: Mapping[int, tuple[type[DriverError], str]] = {
    5: (AccessDenied, "the account may not use this host"),
    995: (HostUnreachable, "the operation was aborted on the host"),
    1326: (AccessDenied, "user or password is wrong"),
    1330: (AccessDenied, "the password has expired"),
    1907: (AccessDenied, "the password must be changed first"),
    1909: (AccessDenied, "the account is locked"),
    OPERATION_TIMEOUT: (HostUnreachable, "the host did not finish the request in time"),
    SHELL_NOT_FOUND: (HostUnreachable, "the shell is gone from the host"),
    2150859173: (QuotaExceeded, "the user has as many shells open as the host allows (MaxShellsPerUser)"),
    2150859174: (QuotaExceeded, "the user has as many operations under way as the host allows"),
    2150859175: (QuotaExceeded, "the user has sent more requests than the host allows in a time"),
    2150859176: (QuotaExceeded, "the host has more requests than it takes"),
    2150859179: (QuotaExceeded, "the host allows no further user to have shells"),
}
"""By the code of a WSManFault."""

STATUS: Mapping[int, tuple[type[DriverError], str]] = {
    401: (AccessDenied, "the login was refused"),
    403: (AccessDenied, "the service refuses this account or this network"),
    404: (HostUnreachable, "there is no WinRM service at this URL"),
    503: (HostUnreachable, "the WinRM service is not available"),
}
"""By HTTP status without a SOAP fault."""

DENIED = "the login was refused: user or password wrong or expired, account locked, or another channel binding wanted"


class ShellLost(HostUnreachable):
    """The shell, or the process in it, is gone; whether the pipeline under way ran is unknown."""


class NotDelivered(HostUnreachable):
    """The request did not reach a process that could have run it; it can be sent again."""


def fault_code(error: BaseException) -> int | None:
    """The code of the WSManFault in an exception of pywinrm or pypsrp, if it is one."""
    if isinstance(error, winrm.exceptions.WinRMOperationTimeoutError):
        return OPERATION_TIMEOUT
    if isinstance(error, winrm.exceptions.WSManFaultError):
        return error.wsman_fault_code
    if isinstance(error, pypsrp.exceptions.WSManFaultError):
        return error.code if isinstance(error.code, int) else None
    return None


def connection_gone(error: BaseException) -> bool:
    """Whether the connection was found broken before anything of a request was sent."""
    return isinstance(error, ConnectionGone) or isinstance(error.__cause__, ConnectionGone)


def refused(error: Exception) -> bool:
    """Whether the login was refused, so that nothing can have been made, and nobody should try again."""
    return isinstance(_made(error, ""), AccessDenied)


def translate(error: Exception, *, host: str, secret: Secret) -> DriverError | LabError:
    """Any exception of pywinrm, pypsrp, requests or spnego as one of ours, without any secret in it."""
    made = _made(error, host)
    if isinstance(made, DriverError):
        made.host = made.host or host
        made.message = secret.scrub(made.message)
        made.args = (made.message,)
    return made


def _made(error: Exception, host: str) -> DriverError | LabError:
    if isinstance(error, DriverError | LabError):
        return error
    code = fault_code(error)
    if code is not None or isinstance(error, winrm.exceptions.WSManFaultError | pypsrp.exceptions.WSManFaultError):
        return _of_fault(error, code)
    if isinstance(error, pypsrp.exceptions.AuthenticationError | winrm.exceptions.AuthenticationError):
        return AccessDenied(DENIED, code=401)
    if type(error).__module__.partition(".")[0] == "requests_credssp":  # an optional library
        return AccessDenied(DENIED)
    if isinstance(error, PermissionError):  # requests_ntlm, when the server breaks the exchange off
        return AccessDenied(DENIED)
    if isinstance(error, winrm.exceptions.WinRMTransportError | pypsrp.exceptions.WinRMTransportError):
        return _of_status(int(error.code))
    if connection_gone(error):
        return NotDelivered("the connection was lost while it was not used")
    if isinstance(error, requests.RequestException):
        return _of_requests(error)
    if isinstance(error, ImportError):
        return MissingRequirement(
            f"host {host}: {error}", hint="pip install 'hvconform[hyperv-kerberos,hyperv-credssp]'"
        )
    if isinstance(error, OSError):
        return HostUnreachable(f"the connection broke: {error}")
    if isinstance(error, spnego.exceptions.SpnegoError):
        return HypervisorFailure(f"the login or the encryption of a message failed: {error}")
    # what the libraries raise over an answer that is none: StopIteration, AttributeError, binascii.Error...
    return HypervisorFailure(f"the endpoint's answer makes no sense ({type(error).__name__}: {str(error)[:200]})")


def _of_fault(error: Exception, code: int | None) -> DriverError:
    reason = str(getattr(error, "reason", "") or error)[:500]
    kind, text = FAULTS.get(code or 0, (HypervisorFailure, "the WinRM service reports a fault"))
    if code == SHELL_NOT_FOUND:
        kind = ShellLost
    return kind(f"{text}: {reason}", code=code)


def _of_status(status: int) -> DriverError:
    kind, text = STATUS.get(status, (HypervisorFailure, "the endpoint failed without saying why"))
    return kind(f"{text} (HTTP {status})", code=status)


def _of_requests(error: requests.RequestException) -> DriverError:
    if isinstance(error, requests.exceptions.SSLError):
        return HostUnreachable(
            "the host's certificate is not trusted, or TLS fails; name its authority in ca_file: " + _brief(error)
        )
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return HypervisorFailure("the endpoint redirects, which is not followed")
    if isinstance(error, requests.exceptions.Timeout):
        return HostUnreachable("no answer in time: " + _brief(error))
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return HostUnreachable("no connection, or it broke: " + _brief(error))
    return HypervisorFailure("the endpoint's HTTP makes no sense: " + _brief(error))


def _brief(error: Exception) -> str:
    """The innermost reason; the outer ones repeat the URL and object ids."""
    inner: BaseException = error
    for _ in range(8):
        reason = getattr(inner, "reason", None)
        following = (
            reason
            if isinstance(reason, BaseException)
            else next((item for item in inner.args if isinstance(item, BaseException)), None)
        )
        if following is None:
            break
        inner = following
    return f"{type(inner).__name__}: {str(inner)[:300]}"


def too_late(what: str, seconds: float, last: str, host: str) -> Timeout:
    """The deadline of a pipeline passed."""
    return Timeout(f"no end of {what} after {seconds:.1f} s", phase=what, last_state=last, host=host)
