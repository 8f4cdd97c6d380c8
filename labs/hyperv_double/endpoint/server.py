"""The endpoint itself: HTTP or HTTPS on loopback, a thread for each connection, SOAP requests to shells and pools."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from labs.hyperv_double import marker
from labs.hyperv_double.endpoint import knobs, soap
from labs.hyperv_double.endpoint.knobs import Kind, Knobs
from labs.hyperv_double.endpoint.login import SOAP_TYPE, Account, Accounts, Login
from labs.hyperv_double.endpoint.pools import Pool
from labs.hyperv_double.endpoint.shells import Shell
from labs.hyperv_double.endpoint.soap import Fault, Request
from labs.hyperv_double.engine import Engine, Session

__all__ = ["Account", "Endpoint", "Limits"]

LARGEST_REQUEST = 2 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """The service's quotas, for a user. The defaults are those of Windows Server 2016 and later.

    Args:
        shells: MaxShellsPerUser.
        operations: Commands under way.
    """

    shells: int = 30
    operations: int = 1500


@dataclass(slots=True)
class Counts:
    """What an endpoint has seen."""

    requests: dict[str, int] = field(default_factory=dict)
    connections: int = 0
    encrypted: int = 0
    clear: int = 0
    logins: int = 0
    refused: int = 0


class Endpoint:
    """A WinRM service on a free port of loopback.

    Args:
        engine: What runs the pipelines.
        accounts: Who may log in, by user name (``DOMAIN\\name`` where there is a domain).
        certificate: Files of certificate and key, in PEM, for HTTPS; None: HTTP, with encrypted messages only.
        binding: The certificate that logins have to be bound to, in DER; by default the server's own.
        basic: Whether Basic is offered; over HTTP it is never.
        credssp: Whether CredSSP is.
        authority: PEM file of the authority whose client certificates are logins: the common name is the user.
        limits: Quotas.
        port: 0: any that is free.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        accounts: Mapping[str, Account],
        certificate: tuple[Path, Path] | None = None,
        binding: bytes | None = None,
        basic: bool = True,
        credssp: bool = True,
        authority: Path | None = None,
        limits: Limits = Limits(),
        port: int = 0,
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.knobs = Knobs()
        self.counts = Counts()
        self.closing = threading.Event()
        self.lock = threading.RLock()
        self.shells: dict[str, Shell | Pool] = {}
        self.tls = certificate is not None
        self.basic = basic and self.tls
        self.credssp = credssp
        self.accounts = Accounts(accounts)
        self.certificate = binding
        self._connections: set[socket.socket] = set()
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
            if authority is not None:
                self._context.verify_mode = ssl.CERT_OPTIONAL
                self._context.load_verify_locations(authority)
            self.certificate = binding or ssl.PEM_cert_to_DER_cert(certificate[0].read_text(encoding="ascii"))
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.endpoint = self
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="double-endpoint", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/wsman"

    @property
    def open_shells(self) -> int:
        """Shells and pools that nobody has deleted yet: what a client has leaked, once it is done."""
        with self.lock:
            return len(self.shells)

    def accept(self, sock: socket.socket) -> socket.socket:
        """Speak TLS on a new connection, if this endpoint does."""
        with self.lock:
            self._connections.add(sock)
            self.counts.connections += 1
        if self._context is None:
            return sock
        secured = self._context.wrap_socket(sock, server_side=True)
        with self.lock:
            self._connections.discard(sock)
            self._connections.add(secured)
        return secured

    def gone(self, sock: socket.socket) -> None:
        with self.lock:
            self._connections.discard(sock)
        sock.close()

    def cut(self) -> None:
        """Cut all connections; shells stay."""
        with self.lock:
            connections = list(self._connections)
        for sock in connections:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster

    def close(self) -> None:
        """Stop serving; connections are cut, shells and their commands end."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        with self.lock:
            for shell in self.shells.values():
                shell.end()
            self.shells.clear()
        self.cut()
        self._thread.join()
        self.accounts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # requests

    def answer(self, data: bytes, login: Login) -> tuple[int, bytes, str]:
        """Status, SOAP answer and verb for a SOAP request."""
        relates = verb = ""
        try:
            request = soap.parse(data)
            relates, verb = request.message_id, request.verb
            with self.lock:
                self.counts.requests[verb] = self.counts.requests.get(verb, 0) + 1
            return 200, self._dispatch(request, login), verb
        except Fault as reason:
            return 500, soap.fault(reason, relates), verb
        except (ValueError, KeyError) as error:
            nonsense = Fault(soap.BAD_REQUEST, "s:Sender", f"The request makes no sense: {error}")
            return 500, soap.fault(nonsense, relates), verb

    def lose(self, shell: str) -> None:
        """End a shell behind its owner's back, as the idle timeout or a restart of the service does."""
        with self.lock:
            found = self.shells.pop(shell, None)
        if found is not None:
            found.end()

    def _dispatch(self, request: Request, login: Login) -> bytes:
        if request.verb == "Create":
            return soap.envelope(request.action + "Response", request.message_id, self._create(request, login))
        with self.lock:
            shell = self.shells.get(request.shell.upper())
            if shell is None or shell.session.user != login.user:
                raise soap.no_shell(request.shell)
        if request.verb == "Delete":
            self.lose(request.shell.upper())
            return soap.envelope(request.action + "Response", request.message_id, "")
        if request.verb == "Command":
            with self.lock:
                under_way = sum(one.operations for one in self.shells.values() if one.session.user == login.user)
            if under_way >= self.limits.operations:
                raise Fault(
                    soap.MAX_OPERATIONS,
                    "w:QuotaLimit",
                    "This user is allowed a maximum number of concurrent operations, which has been exceeded.",
                )
            body = shell.command(request, str(uuid.uuid4()).upper())
        elif request.verb == "Send":
            body = shell.send(request)
        elif request.verb == "Receive":
            body = shell.receive(request)
        elif request.verb == "Signal":
            body = shell.signal(request)
        else:
            raise Fault(soap.BAD_REQUEST, "a:ActionNotSupported", f"The action {request.action} is not supported.")
        return soap.envelope(f"{soap.SHELL}/{request.verb}Response", request.message_id, body)

    def _create(self, request: Request, login: Login) -> str:
        wanted = request.body.find("rsp:Shell", soap.NS)
        if wanted is None:
            raise Fault(soap.BAD_REQUEST, "s:Sender", "There is no Shell.")
        with self.lock:
            mine = sum(1 for shell in self.shells.values() if shell.session.user == login.user)
            if mine >= self.limits.shells:
                raise Fault(
                    soap.MAX_SHELLS,
                    "w:QuotaLimit",
                    f"This user is allowed a maximum number of {self.limits.shells} concurrent shells, "
                    "which has been exceeded.",
                )
            id = (wanted.get("ShellId") or str(uuid.uuid4())).upper()
            session = Session(id=id, user=login.user, auth=login.auth, tls=self.tls)
            if request.is_pool:
                creation = wanted.findtext("{http://schemas.microsoft.com/powershell}creationXml", "")
                self.shells[id] = Pool(self.engine, session, creation)
                return soap.created(request.resource, id, "stdout", login.user)
            self.shells[id] = Shell(self.engine, session)
            return soap.created(request.resource, id, "stdout stderr", login.user)


def _common_name(sock: socket.socket) -> str:
    """The name in the certificate that the client showed; empty without one."""
    shown: Any = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    for part in (shown or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    endpoint: Endpoint

    def finish_request(self, request: Any, client_address: Any) -> None:
        secured = self.endpoint.accept(request)
        try:
            _Handler(secured, client_address, self)
        finally:
            self.endpoint.gone(secured)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Microsoft-HTTPAPI/2.0"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: a request may hold what somebody asked for in confidence."""

    def setup(self) -> None:
        super().setup()
        endpoint = self.server.endpoint
        self.login = Login(
            endpoint.accounts,
            certificate=endpoint.certificate,
            basic=endpoint.basic,
            credssp=endpoint.credssp,
            client=_common_name(self.connection),
        )

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_REQUEST:
            self.close_connection = True
            return self._reply(413, b"")
        data = self.rfile.read(length)
        if (authorization := self.headers.get("Authorization")) is not None:
            step = self.login.step(authorization)
            if step is not None:
                endpoint.counts.refused += step == self.login.offers
                return self._reply(step.status, b"", step.headers)
            endpoint.counts.logins += 1
        if not self.login.user:
            offers = self.login.offers
            return self._reply(offers.status, b"", offers.headers)
        if not data:
            return self._reply(200, b"")
        encrypted = "multipart/" in self.headers.get("Content-Type", "")
        if encrypted:
            try:
                data = self.login.decrypt(data)
            except ValueError:
                offers = self.login.offers
                return self._reply(offers.status, b"", offers.headers)
            endpoint.counts.encrypted += 1
        elif not endpoint.tls:
            return self._reply(500, b"")  # AllowUnencrypted is false
        else:
            endpoint.counts.clear += 1
        return self._serve(data, encrypted)

    def _serve(self, data: bytes, encrypted: bool) -> None:
        endpoint = self.server.endpoint
        kind = self._planted(data)
        if kind is not None and self._instead(kind):
            return None
        status, body, verb = self._faulted(kind, data) or endpoint.answer(data, self.login)
        if endpoint.knobs.mutate is not None:
            body = endpoint.knobs.mutate(verb, body)
        content = SOAP_TYPE
        if encrypted and kind != "plain":
            content, body = self.login.encrypt(body)
        if kind in ("drip", "endless", "drop-midway"):
            return self._slowly(kind, status, content, body)
        return self._reply(status, body, {"Content-Type": content})

    def _planted(self, data: bytes) -> Kind | None:
        try:
            request = soap.parse(data)
        except Fault:
            return None
        kind = self.server.endpoint.knobs.take(request.verb)
        if kind == "shell-lost":
            self.server.endpoint.lose(request.shell.upper())
        shell = self.server.endpoint.shells.get(request.shell.upper())
        if kind in ("silent-exit", "truncated-output") and isinstance(shell, Shell):
            stream = request.body.find(".//*[@CommandId]")
            process = shell.process("" if stream is None else stream.get("CommandId", ""))
            process.silence() if kind == "silent-exit" else process.truncate()
        return kind

    def _instead(self, kind: Kind) -> bool:
        """Faults that are no SOAP answer at all; whether this was one."""
        if kind == "hang":
            self.server.endpoint.closing.wait()
        if kind in ("hang", "drop"):
            self.close_connection = True
        elif kind == "unauthorized":
            self._reply(401, b"", {"WWW-Authenticate": "Kerberos"})
        elif kind == "server-error":
            self._reply(500, b"")
        elif kind == "redirect":
            self._reply(302, b"", {"Location": "http://127.0.0.1:1/wsman"})
        else:
            return False
        return True

    def _faulted(self, kind: Kind | None, data: bytes) -> tuple[int, bytes, str] | None:
        """Answers that are wrong, but take the way of a right one."""
        bodies: Mapping[Kind | None, bytes] = {
            "garbage": bytes(range(256)) * 4,
            "empty": b"",
            "html": b"<html><head><title>Proxy</title></head><body><p>Sorry<br></body></html>",
            "xml-bomb": knobs.BOMB,
            "external-entity": knobs.EXTERNAL,
        }
        if kind in bodies:
            return 200, bodies[kind], ""
        faults: Mapping[Kind | None, Fault] = {
            "operation-timeout": soap.timed_out(),
            "quota-shells": Fault(soap.MAX_SHELLS, "w:QuotaLimit", "The maximum number of concurrent shells."),
            "quota-operations": Fault(soap.MAX_OPERATIONS, "w:QuotaLimit", "The maximum number of operations."),
            "access-denied": Fault(5, "w:AccessDenied", "Access is denied."),
        }
        if kind in faults:
            return 500, soap.fault(faults[kind], soap.parse(data).message_id), ""
        return None

    def _slowly(self, kind: Kind, status: int, content: str, body: bytes) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header(marker.HEADER, marker.VALUE)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(1 << 40 if kind == "endless" else len(body)))
        self.end_headers()
        closing = self.server.endpoint.closing
        try:
            if kind == "drop-midway":
                self.wfile.write(body[: len(body) // 2])
            while kind == "endless" and not closing.is_set():
                self.wfile.write(b"x" * 65536)
            for byte in body if kind == "drip" else b"":
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if closing.wait(0.2):
                    break
        except OSError:
            return  # the client had enough

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str | list[str]] | None = None) -> None:
        self.send_response(status)
        self.send_header(marker.HEADER, marker.VALUE)
        for name, value in (headers or {}).items():
            for one in [value] if isinstance(value, str) else value:
                self.send_header(name, one)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
