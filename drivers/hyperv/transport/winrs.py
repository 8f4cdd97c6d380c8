"""The default transport: a WinRS shell kept open by pywinrm's Protocol, with `dispatch.ps1` answering in it.

The shell runs one PowerShell process, whose standard input gets a request a line and whose standard output gives an
answer a line, so that no call pays for a process start or for loading the Hyper-V module.
"""

from __future__ import annotations

import functools
import itertools
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
from drivers.hyperv.transport.failures import NotDelivered, ShellLost
from drivers.hyperv.transport.messages import Answer, Bound
from drivers.hyperv.transport.sessions import CLEANUP_SECONDS, delete_all
from drivers.hyperv.transport.settings import Auth, Secret, WinrmSettings
from drivers.hyperv.transport.wire import ConnectionGone, Guarded, Stop, check_xml, guard

COMMAND = "powershell.exe"
ARGUMENTS = ("-NoLogo", "-NoProfile", "-NonInteractive", "-InputFormat", "None", "-OutputFormat", "Text")
COMMAND_LINE = 8191
"""What cmd.exe takes; it cuts a longer line off, and the cut script may end with exit code 0."""

SEND_BYTES = 64 << 10
"""Of input a message: with base64 and encryption well below the smallest envelope that a host takes (150 KiB)."""

OUTPUT_BYTES = 64 << 20
"""Of output a pipeline; a list of a thousand VMs with all properties is a tenth of it."""

POLL_SECONDS = 20
"""The longest that the host is asked to hold an answer back."""

STALE_SECONDS = 60.0
"""A connection that was idle for longer is made anew before it is used: http.sys drops them after two minutes."""

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
            resource_uri="http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd",
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
        "proxy": None,
    }
    protocol = _Protocol(url, transport=settings.auth, operation_timeout_sec=POLL_SECONDS, **common)
    wire = _Wire(url, auth_method=settings.auth, service="HTTP", **common)
    wire.stop = Stop()
    protocol.transport = wire
    return protocol, wire


class WinrsChannel:
    """One shell with one `dispatch.ps1` in it.

    Args:
        url: The WinRM endpoint.
        settings: How to log in.
        secret: The password.
    """

    def __init__(self, url: str, settings: WinrmSettings, secret: Secret) -> None:
        self._new = functools.partial(_protocol, url, settings, secret)
        self._idle = f"PT{settings.idle_minutes}M"
        self._protocol, self._wire = self._new()
        self._ids = itertools.count(1)
        self._made: dict[str, bool] = {}
        self._shell = ""
        self._command = ""
        self._defined: set[str] = set()
        self._output = b""
        self._used = time.monotonic()

    def run(self, pipeline: Sequence[Bound], until: float) -> Answer:
        try:
            id = self._request(pipeline, until)
        except NotDelivered:
            # nothing of it can have run: once more, in a new shell if the old one is gone
            id = self._request(pipeline, until)
        answer = messages.answer(self._line(until), id)
        self._used = time.monotonic()
        return answer

    def _request(self, pipeline: Sequence[Bound], until: float) -> int:
        """Send a request, and what it needs first. Raises `NotDelivered` if it cannot have been read."""
        if time.monotonic() - self._used > STALE_SECONDS:
            self._wire.close_session()
        self._time_limits(until)
        fresh = not self._command
        if fresh:
            self._open()
        id = next(self._ids)
        missing = [step.name for step in pipeline if step.script and step.name not in self._defined]
        lines = [*(messages.definition(name) for name in dict.fromkeys(missing)), messages.request(id, pipeline)]
        try:
            for chunk in _chunks(b"".join(lines)):
                self._protocol.send_command_input(self._shell, self._command, chunk)
        except Exception as error:
            self._undelivered(error, fresh)
            raise
        self._defined.update(missing)
        return id

    def _undelivered(self, error: Exception, fresh: bool) -> None:
        """Raise `NotDelivered` where `error` says that a kept shell or its connection is gone."""
        if isinstance(error.__cause__, ConnectionGone) or isinstance(error, ConnectionGone):
            self._wire.close_session()
            raise NotDelivered("the connection was lost while it was not used") from None
        if not fresh and failures.fault_code(error) == failures.SHELL_NOT_FOUND:
            self._forget()
            raise NotDelivered("the shell was gone") from None

    def _open(self) -> None:
        line = [*ARGUMENTS, "-EncodedCommand", scripts.encoded(messages.DISPATCH)]
        length = len(" ".join([COMMAND, *line]))
        if length > COMMAND_LINE:
            raise HypervisorFailure(f"dispatch.ps1 has grown too long for a command line: {length} characters")
        self._forget()
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

    def _line(self, until: float) -> bytes:
        """The next line of the process's output."""
        complaints = b""
        while b"\n" not in self._output:
            self._time_limits(until)
            try:
                out, err, code, done = self._protocol.get_command_output_raw(self._shell, self._command)
            except winrm.exceptions.WinRMOperationTimeoutError:
                if time.monotonic() >= until:
                    raise HostUnreachable("no output yet") from None
                continue
            self._output += out
            complaints += err
            if len(self._output) + len(complaints) > OUTPUT_BYTES:
                raise HypervisorFailure(f"the pipeline wrote more than {OUTPUT_BYTES >> 20} MiB")
            if done and b"\n" not in self._output:
                shown = clixml.messages(complaints) or self._output[:200].decode("ascii", "backslashreplace")
                raise ShellLost(
                    f"PowerShell ended with exit code {code} without an answer: {shown[:500] or 'no output'}"
                )
            if time.monotonic() >= until:
                raise HostUnreachable("output, but no whole answer yet")
        line, _, self._output = self._output.partition(b"\n")
        if self._output:
            raise HypervisorFailure("more than one answer to one request")
        return line.rstrip(b"\r")

    def _time_limits(self, until: float) -> None:
        """Let no single exchange take much longer than what is left; the caller's own deadline is the exact one."""
        left = max(1, min(POLL_SECONDS, round(until - time.monotonic())))
        self._protocol.operation_timeout_sec = left
        self._wire.read_timeout_sec = left + 10

    def _forget(self) -> None:
        self._shell = self._command = ""
        self._defined.clear()
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


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), SEND_BYTES):
        yield data[start : start + SEND_BYTES]
