"""The endpoint itself: HTTP or HTTPS on loopback, a thread for each connection, SOAP requests to shells and pools."""

from __future__ import annotations

import socket
import ssl
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from labs.hyperv_double.endpoint import soap
from labs.hyperv_double.endpoint.handler import Handler, Server
from labs.hyperv_double.endpoint.knobs import Knobs
from labs.hyperv_double.endpoint.login import Account, Accounts, Login
from labs.hyperv_double.endpoint.pools import Pool
from labs.hyperv_double.endpoint.shells import Shell
from labs.hyperv_double.endpoint.soap import Fault, Request
from labs.hyperv_double.engine import Engine, Session

__all__ = ["Account", "Endpoint", "Limits"]


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
        self._server = Server(("127.0.0.1", port), Handler)
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

    def answer(self, request: Request | Fault, login: Login) -> tuple[int, bytes, str]:
        """Status, SOAP answer and verb for a SOAP request, or for one that is none."""
        if isinstance(request, Fault):
            return 500, soap.fault(request, ""), ""
        with self.lock:
            self.counts.requests[request.verb] = self.counts.requests.get(request.verb, 0) + 1
        try:
            return 200, self._dispatch(request, login), request.verb
        except Fault as reason:
            return 500, soap.fault(reason, request.message_id), request.verb
        except (ValueError, KeyError) as error:
            nonsense = Fault(soap.BAD_REQUEST, "s:Sender", f"The request makes no sense: {error}")
            return 500, soap.fault(nonsense, request.message_id), request.verb

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
