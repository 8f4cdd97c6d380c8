"""The default transport: a WinRS shell kept open by pywinrm's Protocol, with `dispatch.ps1` answering in it.

The shell runs one PowerShell process, whose standard input gets a request a line and whose standard output gives an
answer a line.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import requests
import winrm.exceptions
import winrm.protocol
import winrm.transport
import xmltodict
from defusedxml import ElementTree as SafeXml

from conformance.errors import HostUnreachable, HypervisorFailure
from drivers.hyperv import scripts
from drivers.hyperv.transport import clixml, failures, messages
from drivers.hyperv.transport.envelopes import BODY, ID, SHELL, Action, Envelope
from drivers.hyperv.transport.failures import ShellLost
from drivers.hyperv.transport.kept import POLL_SECONDS, KeptScript, bounded
from drivers.hyperv.transport.sessions import CLEANUP_SECONDS, delete_all
from drivers.hyperv.transport.settings import Auth, Secret, WinrmSettings
from drivers.hyperv.transport.wire import Guarded, Stop, check_xml, guard

COMMAND = "powershell.exe"
ARGUMENTS = ("-NoLogo", "-NoProfile", "-NonInteractive", "-InputFormat", "None", "-OutputFormat", "Text")
COMMAND_LINE = 8191
"""What cmd.exe takes; it cuts a longer line off, and the cut script may end with exit code 0."""

SEND_BYTES = 64 << 10
"""Of input a message: with base64 and encryption well below the smallest envelope that a host takes (150 KiB)."""

UTF8 = 65001


class _Protocol(winrm.protocol.Protocol):
    """pywinrm's client, which lets us name a shell."""

    def open_named_shell(self, id: str, idle: str) -> str:
        """Make a shell.

        Args:
            id: The id that it shall have ([MS-WSMV] 2.2.4.37), so that it can be deleted even if the answer is lost.
            idle: The host ends it when it was not used for so long; ISO 8601.

        Returns:
            The id that it has.
        """
        envelope = self.build_wsman_header(
            resource_uri=f"{SHELL}/cmd",
            action="http://schemas.xmlsoap.org/ws/2004/09/transfer/Create",
        )
        options = {"WINRS_NOPROFILE": "TRUE", "WINRS_CODEPAGE": str(UTF8)}
        envelope["env:Header"]["w:OptionSet"] = {
            "w:Option": [{"@Name": name, "#text": value} for name, value in options.items()]
        }
        envelope["env:Body"] = {
            "rsp:Shell": {
                "@ShellId": id,
                "rsp:InputStreams": "stdin",
                "rsp:OutputStreams": "stdout stderr",
                "rsp:IdleTimeOut": idle,
            }
        }
        answer = SafeXml.fromstring(self.send_message(xmltodict.unparse({"env:Envelope": envelope})))
        made = next((node.text for node in answer.iter() if node.get("Name") == "ShellId"), None)
        if not made:
            raise HypervisorFailure("the endpoint made a shell without saying its id")
        return str(made)


class _Wire(winrm.transport.Transport):
    """pywinrm's HTTP under our rules: see `wire`."""

    auth_method: Auth
    adapter: Guarded | None = None
    stop: Stop

    def build_session(self) -> requests.Session:
        session: requests.Session = super().build_session()
        if self.adapter is None:
            self.adapter = guard(session, self.auth_method, self.stop)
        return session

    def setup_encryption(self, session: requests.Session) -> None:
        # called while the session is built: the login has to go over the guarded connection, too
        self.adapter = guard(session, self.auth_method, self.stop)
        super().setup_encryption(session)
        self.adapter.seal()

    def close_session(self) -> None:
        super().close_session()
        self.adapter = None
        self.encryption = None

    def send_message(self, message: str | bytes) -> bytes:
        try:
            data: bytes = super().send_message(message)
        except winrm.exceptions.WinRMTransportError as error:
            # pywinrm looks for a SOAP fault in it
            if error.response_text:
                check_xml(error.response_text)
            raise
        check_xml(data)
        return data


def _protocol(url: str, settings: WinrmSettings, secret: Secret) -> tuple[_Protocol, _Wire]:
    """pywinrm's protocol client with our transport below it; contacts nobody."""
    basic = settings.auth == "basic"
    common: dict[str, Any] = {
        # requests takes text for Latin-1
        "username": settings.user.encode() if basic else settings.user or None,
        "password": secret.reveal().encode() if basic else secret.reveal(),
        "ca_trust_path": settings.ca_file or None,
        "cert_pem": settings.client_cert or None,
        "cert_key_pem": settings.client_key or None,
        "server_cert_validation": "validate" if settings.verify else "ignore",
        "kerberos_delegation": settings.kerberos_delegation,
        "read_timeout_sec": POLL_SECONDS + 10,
        "message_encryption": "never" if basic or settings.auth == "certificate" else "auto",
        # none; for None, requests sets no_proxy in the environment and takes it away again, under other threads
        "proxy": "",
    }
    protocol = _Protocol(url, transport=settings.auth, operation_timeout_sec=POLL_SECONDS, **common)
    wire = _Wire(url, auth_method=settings.auth, service="HTTP", **common)
    wire.stop = Stop()
    protocol.transport = wire
    return protocol, wire


class WinrsChannel(KeptScript):
    """One shell with one `dispatch.ps1` in it.

    Args:
        url: The WinRM endpoint.
        settings: How to log in.
        secret: The password.
    """

    def __init__(self, url: str, settings: WinrmSettings, secret: Secret) -> None:
        super().__init__()
        self._new = functools.partial(_protocol, url, settings, secret)
        self._idle = f"PT{settings.idle_minutes}M"
        self._protocol, self._wire = self._new()
        self._made: dict[str, bool] = {}
        self._shell = ""
        self._command = ""
        self._output = b""

    @property
    def _running(self) -> bool:
        return bool(self._command)

    def _open(self, until: float) -> None:  # noqa: ARG002 - the caller has set the limits
        line = [*ARGUMENTS, "-EncodedCommand", scripts.encoded(messages.DISPATCH)]
        length = len(" ".join([COMMAND, *line]))
        if length > COMMAND_LINE:
            raise HypervisorFailure(f"dispatch.ps1 has grown too long for a command line: {length} characters")
        wanted = str(uuid.uuid4()).upper()
        self._made[wanted] = False
        try:
            self._shell = self._protocol.open_named_shell(wanted, self._idle)
        except Exception as error:
            if failures.refused(error):
                del self._made[wanted]
            raise
        self._made[wanted] = True
        if self._shell.upper() != wanted:
            self._made[self._shell] = True
        # standard input is a pipe, not a console, or PowerShell would not see lines end
        self._command = self._protocol.run_command(self._shell, COMMAND, line, console_mode_stdin=False)
        if not self._command:
            raise HypervisorFailure("the endpoint started a command without saying its id")

    def _parts(self, texts: Sequence[bytes]) -> Iterator[bytes]:
        data = b"".join(texts)
        for start in range(0, len(data), SEND_BYTES):
            yield data[start : start + SEND_BYTES]

    def _write(self, action: Action) -> Envelope:
        envelope = self._protocol.build_wsman_header(f"{SHELL}/{action}", f"{SHELL}/cmd", self._shell, ID)
        written = xmltodict.unparse({"env:Envelope": {**envelope, "env:Body": BODY}})
        return Envelope(written, action, self._command, "stdout stderr")

    def _post(self, message: bytes) -> bytes:
        return self._protocol.send_message(message.decode())

    def _answer(self, until: float) -> bytes:
        complaints = b""
        while b"\n" not in self._output:
            seen = self._receive(until)
            self._output += seen.out
            complaints += seen.err
            bounded(len(self._output) + len(complaints))
            if b"\n" in self._output:
                break
            if seen.done:
                shown = clixml.messages(complaints) or self._output[:200].decode("ascii", "backslashreplace")
                raise ShellLost(
                    f"PowerShell ended with exit code {seen.code} without an answer: {shown[:500] or 'no output'}"
                )
            if time.monotonic() >= until:
                raise HostUnreachable("no whole answer yet")
        line, _, self._output = self._output.partition(b"\n")
        if self._output:
            raise HypervisorFailure("more than one answer to one request")
        return line.rstrip(b"\r")

    def _limit_exchange(self, seconds: int) -> None:
        self._protocol.operation_timeout_sec = seconds
        self._wire.read_timeout_sec = seconds + 10

    def _drop_connection(self) -> None:
        self._wire.close_session()

    def _forget(self) -> None:
        super()._forget()
        self._shell = self._command = ""
        self._output = b""

    def abort(self) -> None:
        self._wire.stop.set()

    def discard(self) -> None:
        self._forget()
        self._wire.close_session()
        if not self._made:
            return
        protocol, wire = self._new()
        protocol.operation_timeout_sec = int(CLEANUP_SECONDS) // 2
        wire.read_timeout_sec = int(CLEANUP_SECONDS) // 2 + 1
        try:
            # deleting a shell ends its commands
            delete_all(self._made, functools.partial(protocol.close_shell, close_session=False))
        finally:
            wire.close_session()
