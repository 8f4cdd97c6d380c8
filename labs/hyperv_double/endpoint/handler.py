"""The endpoint's HTTP: connections, logins, encrypted messages, and answers that go wrong as they were told to."""

from __future__ import annotations

import http.server
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from labs.hyperv_double import marker
from labs.hyperv_double.endpoint import knobs, soap
from labs.hyperv_double.endpoint.knobs import Kind
from labs.hyperv_double.endpoint.login import SOAP_TYPE, Login
from labs.hyperv_double.endpoint.shells import Shell
from labs.hyperv_double.endpoint.soap import Fault, Request

if TYPE_CHECKING:
    from labs.hyperv_double.endpoint.server import Endpoint

LARGEST_REQUEST = 2 << 20


def _common_name(sock: socket.socket) -> str:
    """The name in the certificate that the client showed; empty without one."""
    shown: Any = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    for part in (shown or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    endpoint: Endpoint

    def finish_request(self, request: Any, client_address: Any) -> None:
        secured = self.endpoint.accept(request)
        try:
            Handler(secured, client_address, self)
        finally:
            self.endpoint.gone(secured)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Microsoft-HTTPAPI/2.0"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

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
        request = soap.parse(data)
        kind = None if isinstance(request, Fault) else self._planted(request)
        if kind is not None and self._instead(kind):
            return None
        status, body, verb = self._faulted(kind, request) or endpoint.answer(request, self.login)
        if endpoint.knobs.mutate is not None:
            body = endpoint.knobs.mutate(verb, body)
        content = SOAP_TYPE
        if encrypted and kind != "plain":
            content, body = self.login.encrypt(body)
        if kind in ("drip", "endless", "drop-midway"):
            return self._slowly(kind, status, content, body)
        return self._reply(status, body, {"Content-Type": content})

    def _planted(self, request: Request) -> Kind | None:
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

    def _faulted(self, kind: Kind | None, request: Request | Fault) -> tuple[int, bytes, str] | None:
        """Answers that are wrong, but take the way of a right one."""
        if kind is None or isinstance(request, Fault):
            return None
        bodies: Mapping[Kind, bytes] = {
            "garbage": bytes(range(256)) * 4,
            "empty": b"",
            "html": b"<html><head><title>Proxy</title></head><body><p>Sorry<br></body></html>",
            "xml-bomb": knobs.BOMB,
            "external-entity": knobs.EXTERNAL,
        }
        if kind in bodies:
            return 200, bodies[kind], ""
        faults: Mapping[Kind, Fault] = {
            "operation-timeout": soap.timed_out(),
            "quota-shells": Fault(soap.MAX_SHELLS, "w:QuotaLimit", "The maximum number of concurrent shells."),
            "quota-operations": Fault(soap.MAX_OPERATIONS, "w:QuotaLimit", "The maximum number of operations."),
            "access-denied": Fault(5, "w:AccessDenied", "Access is denied."),
        }
        if kind in faults:
            return 500, soap.fault(faults[kind], request.message_id), ""
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
