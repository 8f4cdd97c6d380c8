"""Ways to a Hyper-V host: WinRM shells by pywinrm (the default) and runspace pools by pypsrp, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from conformance.errors import MissingRequirement
from drivers.hyperv.transport.base import Command, JsonValue, RemoteError, Result, Script, Step, Transport
from drivers.hyperv.transport.settings import Secret, WinrmSettings

__all__ = [
    "Command",
    "JsonValue",
    "RemoteError",
    "Result",
    "Script",
    "Secret",
    "Step",
    "Transport",
    "WinrmSettings",
    "open_transport",
]

LIBRARIES = {
    ("winrs", "kerberos"): ("kerberos", "hyperv-kerberos"),
    ("psrp", "kerberos"): ("gssapi", "hyperv-kerberos"),
    ("winrs", "credssp"): ("requests_credssp", "hyperv-credssp"),
    ("psrp", "credssp"): ("requests_credssp", "hyperv-credssp"),
}
"""What ways to log in need besides the client libraries: the module, and the extra that brings it."""


def open_transport(
    host: str, settings: WinrmSettings, secret: Secret, *, check: Callable[[Step], None] | None = None
) -> Transport:
    """The transport to a host; nobody is contacted before its first call.

    Args:
        host: The host's lab name, which has an endpoint in `settings`.
        secret: What `settings.password` read.
        check: Refuses what the driver must not send; None: all that `cmdlets.toml` does not have.

    Raises:
        MissingRequirement: The client libraries, or those for this way to log in, are not installed.
    """
    try:
        from drivers.hyperv.transport.psrp import PsrpChannel
        from drivers.hyperv.transport.sessions import Channel, Sessions
        from drivers.hyperv.transport.winrs import WinrsChannel
    except ImportError as error:
        raise MissingRequirement(
            f"the Hyper-V driver needs pywinrm and pypsrp ({error})", hint="pip install 'hvconform[hyperv]'"
        ) from None
    from drivers.hyperv import cmdlets

    module, extra = LIBRARIES.get((settings.transport, settings.auth), ("", ""))
    if module and find_spec(module) is None:
        raise MissingRequirement(
            f"auth = {settings.auth} by {settings.transport} needs the library {module}",
            hint=f"pip install 'hvconform[{extra}]'",
        )
    url = settings.endpoints[host]

    def make() -> Channel:
        return (
            PsrpChannel(url, settings, secret) if settings.transport == "psrp" else WinrsChannel(url, settings, secret)
        )

    delegates = settings.auth == "credssp" or (settings.auth == "kerberos" and settings.kerberos_delegation)
    return Sessions(host, make, secret=secret, limit=settings.shells, delegates=delegates, check=check or cmdlets.check)
