"""The faster transport: a runspace pool kept open by pypsrp, in which cmdlets and parameters are bound natively.

A pool is a warm PowerShell in the WinRM service: a call is two exchanges, and no process of ours waits on the host.
What comes out goes through the same `shape.ps1` as in the other transport, so that both return the same values.
"""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import pypsrp.complex_objects
import pypsrp.exceptions
import pypsrp.messages
import pypsrp.powershell
import pypsrp.serializer
import pypsrp.wsman
import requests

from conformance.errors import HostUnreachable, HypervisorFailure
from drivers.hyperv import scripts
from drivers.hyperv.transport import failures
from drivers.hyperv.transport.base import JsonValue, RemoteError, Result
from drivers.hyperv.transport.failures import NotDelivered, ShellLost
from drivers.hyperv.transport.messages import Answer, Bound, shaped
from drivers.hyperv.transport.sessions import CLEANUP_SECONDS, delete_all
from drivers.hyperv.transport.settings import Secret, WinrmSettings
from drivers.hyperv.transport.winrs import POLL_SECONDS, STALE_SECONDS
from drivers.hyperv.transport.wire import ConnectionGone, Stop, check_xml, guard

PREFERENCES: Mapping[str, str] = {
    # progress is not shown to anybody, and a question would wait for an answer for ever
    "ProgressPreference": "SilentlyContinue",
    "ConfirmPreference": "None",
}

POOL = "http://schemas.microsoft.com/powershell/" + pypsrp.powershell.DEFAULT_CONFIGURATION_NAME
"""The resource of which pools are instances."""

CATEGORIES = (
    "NotSpecified",
    "OpenError",
    "CloseError",
    "DeviceError",
    "DeadlockDetected",
    "InvalidArgument",
    "InvalidData",
    "InvalidOperation",
    "InvalidResult",
    "InvalidType",
    "MetadataError",
    "NotImplemented",
    "NotInstalled",
    "ObjectNotFound",
    "OperationStopped",
    "OperationTimeout",
    "SyntaxError",
    "ParserError",
    "PermissionDenied",
    "ResourceBusy",
    "ResourceExists",
    "ResourceUnavailable",
    "ReadError",
    "WriteError",
    "FromStdErr",
    "SecurityError",
    "ProtocolError",
    "ConnectionError",
    "AuthenticationError",
    "LimitsExceeded",
    "QuotaExceeded",
    "NotEnabled",
)
"""``System.Management.Automation.ErrorCategory`` by number."""


class _Serializer(pypsrp.serializer.Serializer):
    """pypsrp's, which refuses document types: CLIXML has neither those nor comments, and writes every < as &lt;."""

    def deserialize(self, element: Any, metadata: Any = None, clear: bool = True) -> Any:
        if isinstance(element, str) and "<!" in element:
            raise HypervisorFailure("CLIXML with a document type; refused")
        return super().deserialize(element, metadata, clear)


class _OneStatement(pypsrp.complex_objects.Pipeline):
    """A pipeline of one statement. pypsrp copies every command twice, for a parser that it no longer uses."""

    commands: Any

    def _get_statements(self) -> list[Any]:
        self.commands[-1].end_of_statement = True
        return [self.commands]


def _begin(shell: Any) -> None:
    """Send a pipeline of one statement, without input, as pypsrp's `begin_invoke` does."""
    objects = pypsrp.complex_objects
    statement = _OneStatement(is_nested=False, cmds=shell.commands, history=None, redirect_err_to_out=False)
    shell._invoke(
        pypsrp.messages.CreatePipeline(
            True,
            objects.ApartmentState(value=objects.ApartmentState.UNKNOWN),
            objects.RemoteStreamOptions(value=objects.RemoteStreamOptions.ADD_INVOCATION_INFO),
            False,
            objects.HostInfo(host=None),
            statement,
            False,
        )
    )


def _connection(url: str, settings: WinrmSettings, secret: Secret) -> Any:
    """pypsrp's client of the WinRM service, under the rules of `wire`; contacts nobody."""
    parts = urlsplit(url)
    # requests takes text for Latin-1
    login: tuple[Any, Any] = (settings.user or None, secret.reveal() or None)
    if settings.auth == "basic":
        login = (settings.user.encode(), secret.reveal().encode())
    connection = pypsrp.wsman.WSMan(
        parts.hostname or "",
        port=parts.port or (5986 if parts.scheme == "https" else 5985),
        path=parts.path.strip("/") or "wsman",
        ssl=parts.scheme == "https",
        auth=settings.auth,
        username=login[0],
        password=login[1],
        cert_validation=settings.verify,
        connection_timeout=round(settings.connect_seconds),
        read_timeout=POLL_SECONDS + 10,
        operation_timeout=POLL_SECONDS,
        no_proxy=True,
        reconnection_retries=0,
        certificate_pem=settings.client_cert or None,
        certificate_key_pem=settings.client_key or None,
        negotiate_delegate=settings.kerberos_delegation,
    )
    transport: Any = connection.transport
    if settings.verify and settings.ca_file:
        transport.cert_validation = settings.ca_file  # a path, which its annotation does not know
    transport.adapter = None
    transport.stop = Stop()
    build, send = transport._build_session, transport._send_request

    def build_session(_: object) -> requests.Session:
        session: requests.Session = build()
        transport.adapter = guard(session, settings.auth, transport.stop)
        return session

    def send_request(self: Any, *args: Any, **kwargs: Any) -> bytes:
        if self.encryption is not None:
            self.adapter.seal()
        try:
            data: bytes = send(*args, **kwargs)
        except pypsrp.exceptions.WinRMTransportError as error:
            if error.response_text:
                check_xml(error.response_text)
            raise
        if data:  # the exchange that only logs in has none
            check_xml(data)
        return data

    transport._build_session = types.MethodType(build_session, transport)
    transport._send_request = types.MethodType(send_request, transport)
    return connection


class PsrpChannel:
    """One runspace pool of one runspace.

    Args:
        url: The WinRM endpoint.
        settings: How to log in.
        secret: The password.
    """

    def __init__(self, url: str, settings: WinrmSettings, secret: Secret) -> None:
        self._new = functools.partial(_connection, url, settings, secret)
        self._idle_seconds = settings.idle_minutes * 60
        self._connection = self._new()
        self._pool: Any = None
        self._made: dict[str, bool] = {}
        self._used = time.monotonic()

    def run(self, pipeline: Sequence[Bound], until: float) -> Answer:
        try:
            shell = self._begin(pipeline, until)
        except NotDelivered:
            # nothing of it can have run: once more, in a new pool if the old one is gone
            shell = self._begin(pipeline, until)
        self._finish(shell, until)
        self._used = time.monotonic()
        warnings = [str(getattr(record, "message", record)) for record in shell.streams.warning]
        # a pipeline may write errors and still say that it had none
        if shell.streams.error:
            return Answer(Result([], warnings), _remote_error(shell.streams.error[0]))
        if shell.state != pypsrp.complex_objects.PSInvocationState.COMPLETED:
            raise HypervisorFailure(f"the pipeline ended in state {shell.state} without an error record")
        return Answer(Result(shaped(shell.output), warnings))

    def _begin(self, pipeline: Sequence[Bound], until: float) -> Any:
        """Send a pipeline. Raises `NotDelivered` if it cannot have started."""
        if time.monotonic() - self._used > STALE_SECONDS:
            self._drop_connection()
        self._time_limits(until)
        fresh = self._pool is None
        if fresh:
            self._open(until)
        shell = pypsrp.powershell.PowerShell(self._pool)
        for step in pipeline:
            if step.script:
                shell.add_script(scripts.text(step.name), use_local_scope=True)
            else:
                shell.add_cmdlet(step.name)
            shell.add_parameters({name: _tagged(value) for name, value in step.parameters.items()})
        try:
            _begin(shell)
        except ConnectionGone:
            self._drop_connection()
            raise NotDelivered("the connection was lost while it was not used") from None
        except pypsrp.exceptions.WSManFaultError as error:
            if fresh or failures.fault_code(error) != failures.SHELL_NOT_FOUND:
                raise
            self._pool = None
            raise NotDelivered("the pool was gone") from None
        return shell

    def _open(self, until: float) -> None:
        pool = pypsrp.powershell.RunspacePool(self._connection, idle_timeout=self._idle_seconds, no_profile=True)
        pool._serializer = _Serializer()
        pool._fragmenter = pypsrp.powershell.Fragmenter(self._connection.max_payload_size, pool._serializer)
        self._pool = pool
        # its id is chosen here, so one whose creation was never confirmed can be deleted, too
        self._made[pool.id] = False
        try:
            pool.open()
        except pypsrp.exceptions.WSManFaultError as error:
            self._still_opening(error)
        except Exception as error:
            if failures.refused(error) and not pool.shell.opened:
                del self._made[pool.id]
            raise
        self._made[pool.id] = True
        while pool.state == pypsrp.complex_objects.RunspacePoolState.NEGOTIATION_SENT:
            if time.monotonic() >= until:
                raise HostUnreachable("the runspace pool did not open in time")
            self._time_limits(until)
            try:
                pool._receive()
            except pypsrp.exceptions.WSManFaultError as error:
                self._still_opening(error)
        shell = pypsrp.powershell.PowerShell(pool)
        for name, value in PREFERENCES.items():
            shell.add_cmdlet("Set-Variable").add_parameters({"Name": name, "Value": value, "Scope": "Global"})
            shell.add_statement()
        shell.begin_invoke()
        self._finish(shell, until)

    def _still_opening(self, error: pypsrp.exceptions.WSManFaultError) -> None:
        """Let a fault pass that only means that the pool is not open yet: pypsrp itself would give up."""
        sent = pypsrp.complex_objects.RunspacePoolState.NEGOTIATION_SENT
        if failures.fault_code(error) != failures.OPERATION_TIMEOUT or self._pool.state != sent:
            raise error

    def _finish(self, shell: Any, until: float) -> None:
        running = pypsrp.complex_objects.PSInvocationState.RUNNING
        while shell.state == running:
            shell.poll_invoke(timeout=self._time_limits(until))
            if shell.state == running and time.monotonic() >= until:
                raise HostUnreachable("no end yet")
        if self._pool.state != pypsrp.complex_objects.RunspacePoolState.OPENED:
            raise ShellLost("the runspace pool broke")
        # otherwise each would be kept, with its output, as long as the pool lives
        self._pool.pipelines.pop(shell.id, None)

    def _time_limits(self, until: float) -> int:
        """Seconds that the next exchange may take; the caller's own deadline is the exact one."""
        left = max(1, min(POLL_SECONDS, round(until - time.monotonic())))
        self._connection.operation_timeout = left
        self._connection.transport.read_timeout = left + 10
        return left

    def _drop_connection(self) -> None:
        transport = self._connection.transport
        transport.close()
        transport.session = transport.encryption = transport.adapter = None

    def abort(self) -> None:
        self._connection.transport.stop.set()

    def discard(self) -> None:
        self._pool = None
        self._connection.close()
        if not self._made:
            return
        connection = self._new()
        connection.operation_timeout = int(CLEANUP_SECONDS) // 2
        connection.transport.read_timeout = int(CLEANUP_SECONDS) // 2 + 1
        try:
            delete_all(self._made, functools.partial(_delete, connection))
        finally:
            connection.close()


def _delete(connection: Any, pool: str) -> None:
    selectors = pypsrp.wsman.SelectorSet()
    selectors.add_option("ShellId", pool)
    connection.delete(POOL, selector_set=selectors)


def _tagged(value: JsonValue) -> Any:
    """A parameter's value with its type; pypsrp by itself makes every int 32 bits wide, and every float single."""
    tagged = pypsrp.serializer.TaggedValue
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return tagged("I32" if -(2**31) <= value < 2**31 else "I64", value)
    if isinstance(value, float):
        return tagged("Db", value)
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    return {key: _tagged(item) for key, item in value.items()}


def _remote_error(record: Any) -> RemoteError:
    """An error record that came as CLIXML."""
    if not hasattr(record, "fq_error"):
        return RemoteError(str(record))
    number = record.category if isinstance(record.category, int) else 0
    exception = record.exception
    inside = getattr(exception, "adapted_properties", {})
    message = inside.get("Message") or getattr(exception, "to_string", None) or str(record)
    hresult = inside.get("HResult")
    kinds = [str(kind).removeprefix("Deserialized.") for kind in getattr(exception, "types", [])]
    return RemoteError(
        str(message),
        error_id=str(record.fq_error or ""),
        category=CATEGORIES[number] if 0 <= number < len(CATEGORIES) else str(number),
        hresult=hresult if isinstance(hresult, int) else 0,
        exception=kinds[0] if kinds else "",
    )
