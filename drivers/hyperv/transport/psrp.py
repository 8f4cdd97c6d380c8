"""The other transport: a runspace pool kept open by pypsrp, with a pipeline in it whose script, `pool.ps1`, answers.

A pool is a warm PowerShell in the WinRM service, without a shell or a process of ours. The pipeline stays open: its
input objects are requests, its output objects the answers. A pipeline for each call would have its cmdlets bound
natively, and is what pypsrp is made for; but to describe one takes a hundred properties in CLIXML, which take more time
than all the rest of a call.
"""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pypsrp.complex_objects
import pypsrp.exceptions
import pypsrp.messages
import pypsrp.powershell
import pypsrp.serializer
import pypsrp.wsman
import requests

from conformance.errors import HostUnreachable, HypervisorFailure
from drivers.hyperv import scripts
from drivers.hyperv.transport import failures, messages
from drivers.hyperv.transport.envelopes import BODY, ID, SHELL, Action, Envelope
from drivers.hyperv.transport.failures import ShellLost
from drivers.hyperv.transport.kept import POLL_SECONDS, KeptScript, bounded
from drivers.hyperv.transport.sessions import CLEANUP_SECONDS, delete_all
from drivers.hyperv.transport.settings import Secret, WinrmSettings
from drivers.hyperv.transport.wire import Stop, check_xml, guard

POOL = "http://schemas.microsoft.com/powershell/" + pypsrp.powershell.DEFAULT_CONFIGURATION_NAME
"""The resource of which pools are instances."""

OUTPUT = pypsrp.messages.MessageType.PIPELINE_OUTPUT


class _Serializer(pypsrp.serializer.Serializer):
    """pypsrp's, which refuses document types: CLIXML has neither those nor comments, and writes every < as &lt;."""

    def deserialize(self, element: Any, metadata: Any = None, clear: bool = True) -> Any:
        if isinstance(element, str) and "<!" in element:
            raise HypervisorFailure("CLIXML with a document type; refused")
        return super().deserialize(element, metadata, clear)


def _begin(shell: Any) -> None:
    """Send a pipeline whose input is to come, as pypsrp's `begin_invoke` does before it sends all there will be."""
    objects = pypsrp.complex_objects
    shell._invoke(
        pypsrp.messages.CreatePipeline(
            False,
            objects.ApartmentState(value=objects.ApartmentState.UNKNOWN),
            objects.RemoteStreamOptions(value=objects.RemoteStreamOptions.ADD_INVOCATION_INFO),
            False,
            objects.HostInfo(host=None),
            objects.Pipeline(is_nested=False, cmds=shell.commands, history=None, redirect_err_to_out=False),
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


class PsrpChannel(KeptScript):
    """One runspace pool of one runspace, with one `pool.ps1` in it.

    Args:
        url: The WinRM endpoint.
        settings: How to log in.
        secret: The password.
    """

    def __init__(self, url: str, settings: WinrmSettings, secret: Secret) -> None:
        super().__init__()
        self._new = functools.partial(_connection, url, settings, secret)
        self._idle_seconds = settings.idle_minutes * 60
        self._connection = self._new()
        self._pool: Any = None
        self._script: Any = None
        self._made: dict[str, bool] = {}

    @property
    def _running(self) -> bool:
        return self._script is not None

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
        script = pypsrp.powershell.PowerShell(pool)
        script.add_script(scripts.text(messages.POOL), use_local_scope=True)
        _begin(script)
        self._script = script

    def _still_opening(self, error: pypsrp.exceptions.WSManFaultError) -> None:
        """Let a fault pass that only means that the pool is not open yet: pypsrp itself would give up."""
        sent = pypsrp.complex_objects.RunspacePoolState.NEGOTIATION_SENT
        if failures.fault_code(error) != failures.OPERATION_TIMEOUT or self._pool.state != sent:
            raise error

    def _parts(self, texts: Sequence[bytes]) -> list[bytes]:
        inputs = [pypsrp.messages.PipelineInput(data=text.decode("ascii").rstrip("\n")) for text in texts]
        fragments: list[bytes] = self._pool._fragmenter.fragment_multiple(inputs, self._pool.id, self._script.id)
        return fragments

    def _write(self, action: Action) -> Envelope:
        options = pypsrp.wsman.OptionSet() if action == "Receive" else None
        if options is not None:
            options.add_option("WSMAN_CMDSHELL_OPTION_KEEPALIVE", "True")
        soap = pypsrp.wsman.NAMESPACES["s"]
        shell = self._pool.shell
        id, head = self._connection._create_header(f"{SHELL}/{action}", POOL, options, shell._selector_set)
        envelope = ElementTree.Element(f"{{{soap}}}Envelope")
        envelope.append(head)
        ElementTree.SubElement(envelope, f"{{{soap}}}Body").text = BODY
        written = ElementTree.tostring(envelope, encoding="unicode").replace(id, ID)
        return Envelope(written, action, self._script._command_id, "stdout")

    def _post(self, message: bytes) -> bytes:
        try:
            answer: bytes = self._connection.transport.send(message)
        except pypsrp.exceptions.WinRMTransportError as error:
            if not error.response_text:
                raise
            raise self._connection._parse_wsman_fault(error.response_text) from None
        return answer

    def _answer(self, until: float) -> bytes:
        script = self._script
        texts: list[Any] = []
        size = 0
        while not texts:
            if script.state != pypsrp.complex_objects.PSInvocationState.RUNNING:
                said = "; ".join(str(record) for record in script.streams.error) or "no error record"
                raise ShellLost(f"the script in the runspace pool ended without an answer: {said[:500]}")
            if self._pool.state != pypsrp.complex_objects.RunspacePoolState.OPENED:
                raise ShellLost("the runspace pool broke")
            seen = self._receive(until)
            size += len(seen.out)
            bounded(size)
            answers = self._pool._parse_responses(seen.out, script)
            texts += [item.data.data for kind, item in answers if kind == OUTPUT]
            if not texts and time.monotonic() >= until:
                raise HostUnreachable("no answer yet")
        text, *more = texts
        if more:
            raise HypervisorFailure("more than one answer to one request")
        if not isinstance(text, str):
            raise HypervisorFailure(f"an answer that is no text: {str(text)[:200]!r}")
        return text.encode()

    def _limit_exchange(self, seconds: int) -> None:
        self._connection.operation_timeout = seconds
        self._connection.transport.read_timeout = seconds + 10

    def _drop_connection(self) -> None:
        transport = self._connection.transport
        transport.close()
        transport.session = transport.encryption = transport.adapter = None

    def _forget(self) -> None:
        super()._forget()
        self._pool = self._script = None

    def abort(self) -> None:
        self._connection.transport.stop.set()

    def discard(self) -> None:
        self._forget()
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
