"""Connections to the hosts: opened in bounded time, kept alive, opened anew after a daemon's restart."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from conformance.errors import AccessDenied, DriverError, HostUnreachable, MissingRequirement
from drivers.libvirt.binding import load, lv
from drivers.libvirt.errors import translate

CONNECT_SECONDS = 20.0
"""A TCP connect to a host that is off takes two minutes in the kernel; nobody should wait that long to hear it."""

KEEPALIVE = (5, 3)
"""Seconds between two probes, and how many may stay unanswered. QEMU's driver answers them in its RPC thread."""

REFUSALS = ("Permission denied", "Host key verification failed", "ertificate", "not trusted")
"""Words of a refused login. libvirt gives what ssh and GnuTLS say as text, under the code of a broken connection."""


class Hosts:
    """One connection a host.

    Args:
        uris: libvirt URI by the host's lab name.
        user: Who logs in where the URI's server asks for it.
        password_env: Name of the environment variable that holds the password; the password is never kept or shown.
    """

    def __init__(self, uris: Mapping[str, str], *, user: str = "", password_env: str = "") -> None:
        self.uris = dict(uris)
        self._user = user
        self._password_env = password_env
        self._open: dict[str, Any] = {}
        self._locks = {name: threading.Lock() for name in uris}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.uris)

    def get(self, host: str) -> Any:
        """The connection to a host, a `virConnect`.

        Raises:
            HostUnreachable: No answer, or none in time.
            AccessDenied: The credentials were refused.
            MissingRequirement: The environment has no password.
        """
        with self._locks[host]:
            conn = self._open.get(host)
            if conn is not None and _alive(conn):
                return conn
            self._open[host] = self._connect(host)
            return self._open[host]

    def _connect(self, host: str) -> Any:
        load()
        result: list[Any] = []

        def work() -> None:
            try:
                result.append(self._authenticate(host))
            except BaseException as error:  # noqa: BLE001 - handed over to the caller
                result.append(error)

        # in a thread of its own, since libvirt has no time limit for opening a connection
        thread = threading.Thread(target=work, name=f"connect-{host}", daemon=True)
        thread.start()
        thread.join(CONNECT_SECONDS)
        if not result:
            raise HostUnreachable(
                f"no answer from {self.shown(host)} in {CONNECT_SECONDS:.0f} s",
                operation="connect",
                host=host,
                hint=self._way_out(host, ""),
            )
        if isinstance(result[0], lv.libvirtError):
            raise self._refusal(result[0], host) from result[0]
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def _authenticate(self, host: str) -> Any:
        if self._password_env and self._password_env not in os.environ:
            raise MissingRequirement(
                f"no password for {self.shown(host)}", hint=f"put it into the environment variable {self._password_env}"
            )
        wanted = [lv.VIR_CRED_AUTHNAME, lv.VIR_CRED_USERNAME, lv.VIR_CRED_PASSPHRASE]

        def answer(credentials: list[list[Any]], _: object) -> int:
            for credential in credentials:
                secret = credential[0] == lv.VIR_CRED_PASSPHRASE
                credential[4] = os.environ.get(self._password_env, "") if secret else self._user
            return 0

        conn = lv.openAuth(_asks_nothing(self.uris[host]), [wanted, answer, None], 0)
        try:
            conn.setKeepAlive(*KEEPALIVE)
        except lv.libvirtError as error:
            # a driver that lives in this process (libxl, test) has no wire that could go silent
            if error.get_error_code() not in (lv.VIR_ERR_NO_SUPPORT, lv.VIR_ERR_INVALID_CONN):
                raise
        return conn

    def _refusal(self, error: Any, host: str) -> DriverError:
        seen = translate(error, operation="connect", host=host)
        refused = isinstance(seen, AccessDenied) or any(word in seen.message for word in REFUSALS)
        return (AccessDenied if refused else HostUnreachable)(
            f"{self.shown(host)}: {seen.message}",
            operation="connect",
            host=host,
            code=seen.code,
            hint=self._way_out(host, seen.message),
        )

    def _way_out(self, host: str, said: str) -> str:
        parts = urlsplit(self.uris[host])
        transport = parts.scheme.partition("+")[2]
        if transport == "ssh":
            port = f"-p {parts.port} " if parts.port else ""
            name = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
            return f"`ssh -o BatchMode=yes {port}{name} true` has to end well, without a question and without a word"
        if "ertificate" in said:
            return "client and server need certificates of one CA, and the server's the name or address in the URI"
        if "authentication failed" in said:
            return f"see that {self._user or 'nobody'!r} may log in there: options user and password_env of the target"
        return "`virsh -c URI uri` with the URI of the lab file says the same; see docs/drivers/libvirt.md"

    def shown(self, host: str) -> str:
        """The URI of a host for messages: without the query, which may name key files, and without any password."""
        parts = urlsplit(self.uris[host])
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"

    def close(self) -> None:
        for conn in self._open.values():
            try:
                conn.close()
            except lv.libvirtError as error:
                if translate(error).code is None:
                    raise
        self._open.clear()


def _asks_nothing(uri: str) -> str:
    """A URI by which ssh never asks on a terminal: it would wait there for an answer, unseen behind the live view."""
    parts = urlsplit(uri)
    if not parts.scheme.endswith("+ssh") or "no_tty" in dict(parse_qsl(parts.query)):
        return uri
    return f"{uri}{'&' if parts.query else '?'}no_tty=1"


def _alive(conn: Any) -> bool:
    try:
        return bool(conn.isAlive())
    except lv.libvirtError:
        return False
