"""The HTTP below both transports: bounded answers, no redirects, no silent reconnects, and a way to break a hung call.

pywinrm and pypsrp each make a `requests` session of their own; `guard` puts it under these rules.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakSet
from xml.parsers import expat

import requests
import urllib3
from requests.adapters import HTTPAdapter

from conformance.errors import AccessDenied, HypervisorFailure
from drivers.hyperv.transport.exchange import bounded, exchange
from drivers.hyperv.transport.settings import Auth

SCHEMES: Mapping[Auth, tuple[str, ...]] = {
    "basic": ("basic",),
    "ntlm": ("negotiate", "ntlm"),
    "kerberos": ("negotiate", "kerberos"),
    "credssp": ("credssp",),
    "certificate": (),
}
"""What a host has to offer for a login to be possible, in lower case."""


class ConnectionGone(Exception):
    """The connection that carried the login broke while nobody used it; nothing of the new request was sent."""


class Guarded(HTTPAdapter):
    """An adapter that knows its sockets.

    Once it is sealed, all goes by `exchange`, which makes no new connection: a message encrypted for one login means
    nothing on a connection without it, and urllib3 would open one without a word. `abort` breaks whatever is under way,
    from any thread.
    """

    def __init__(self, auth: Auth) -> None:
        self._schemes = SCHEMES[auth]
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._last: Any = None
        self._lock = threading.Lock()
        self.sealed = False
        self._connection: Any = None
        self._aborted = False
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self)

    def send(self, *args: Any, **kwargs: Any) -> Any:
        response = super().send(*args, **kwargs)
        # held, since an answer that is refused or cut off below would take its socket along unclosed
        self._last = response.raw
        self._check_offer(response)
        stream = response.raw.stream

        def limited(*args: Any, **kwargs: Any) -> Iterator[bytes]:
            seen = 0
            for chunk in stream(*args, **kwargs):
                seen += len(chunk)
                bounded(seen)
                yield chunk

        response.raw.stream = limited
        return response

    def exchange(self, request: requests.PreparedRequest, seconds: float) -> requests.Response:
        """Send an encrypted message over the connection that carried the login, and read its answer.

        Args:
            seconds: How long the connection may be silent.
        """
        connection = self._connection
        if connection is None or not connection.is_connected:
            raise ConnectionGone
        response, again = exchange(connection.sock, request, seconds)
        if not again:
            connection.close()
        self._check_offer(response)
        if response.status_code != 401 and "multipart/" not in response.headers.get("Content-Type", ""):
            # somebody on the way could have written it
            raise HypervisorFailure("the endpoint answered an encrypted message in the clear; refused")
        return response

    def _check_offer(self, response: requests.Response) -> None:
        """Of a refused login, say what is missing where the libraries would say that the answer makes no sense."""
        offered = response.headers.get("WWW-Authenticate", "")
        if response.status_code == 401 and not any(scheme in offered.lower() for scheme in self._schemes):
            raise AccessDenied(
                f"the login was refused; the host offers {offered[:200] or 'no way to log in'}, "
                f"and auth needs {' or '.join(self._schemes) or 'a client certificate that it knows'}",
                code=401,
            )

    def seal(self) -> None:
        self.sealed = True

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            open_now = list(self._sockets)
        for one in open_now:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it was closed meanwhile

    def close(self) -> None:
        super().close()
        last, self._last = self._last, None
        if last is not None:
            last.close()
        with self._lock:
            left = list(self._sockets)
        for one in left:
            one.close()

    def opening(self) -> None:
        if self._aborted:
            raise OSError("the call was given up")

    def opened(self, connection: urllib3.connection.HTTPConnection) -> None:
        self._connection = connection
        with self._lock:
            self._sockets.add(connection.sock)
        if self._aborted:
            connection.sock.close()
            raise OSError("the call was given up")


class _InOne(urllib3.connection.HTTPConnection):
    """A connection that sends the head of a request together with its body: two packets wake the other side twice."""

    _held: list[bytes] | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        held: list[bytes] = []
        self._held = held
        try:
            super().request(*args, **kwargs)
        finally:
            self._held = None
        super().send(b"".join(held))

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)
        else:
            self._held.append(data)


def _pool_classes(adapter: Guarded) -> dict[str, type]:
    """urllib3's pools of connections that tell `adapter` of themselves."""

    class Told(_InOne):
        def connect(self) -> None:
            adapter.opening()
            super().connect()
            adapter.opened(self)

    class Http(Told, urllib3.connection.HTTPConnection):
        pass

    class Https(Told, urllib3.connection.HTTPSConnection):
        pass

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Https

    return {"http": HttpPool, "https": HttpsPool}


class Stop:
    """Gives a channel's calls up, whichever connection they have come to: also one that is not made yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._adapter: Guarded | None = None
        self._set = False

    def use(self, adapter: Guarded) -> None:
        with self._lock:
            self._adapter = adapter
            if self._set:
                adapter.abort()

    def set(self) -> None:
        with self._lock:
            self._set = True
            if self._adapter is not None:
                self._adapter.abort()


def guard(session: requests.Session, auth: Auth, stop: Stop) -> Guarded:
    """Put a session under the rules of this module, and what it does under those of `stop`."""
    adapter = Guarded(auth)
    stop.use(adapter)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    # neither .netrc nor a proxy of the environment has a say in where a login goes
    session.trust_env = False
    session.proxies = {}
    # a redirect would take the login elsewhere
    session.max_redirects = 0
    session.prepare_request = _Prepared(session.prepare_request)  # type: ignore[method-assign]
    session.send = _Sent(adapter, session.send)  # type: ignore[method-assign, assignment]
    return adapter


class _Sent:
    """Sends the requests of a session: by requests until it has logged in, encrypted messages without it."""

    def __init__(self, adapter: Guarded, send: Callable[..., requests.Response]) -> None:
        self._adapter = adapter
        self._send = send

    def __call__(self, request: requests.PreparedRequest, *, timeout: Any) -> requests.Response:
        if not self._adapter.sealed:
            return self._send(request, timeout=timeout)
        # pypsrp gives two, one of them for a connection that is to be made
        return self._adapter.exchange(request, timeout[1] if isinstance(timeout, tuple) else timeout)


class _Prepared:
    """Prepares the requests of a session, which all go to one URL: what requests works out for one holds for all."""

    def __init__(self, prepare: Callable[[requests.Request], requests.PreparedRequest]) -> None:
        self._prepare = prepare
        self._model: requests.PreparedRequest | None = None

    def __call__(self, request: requests.Request) -> requests.PreparedRequest:
        if self._model is None:
            self._model = self._prepare(requests.Request(request.method, request.url))
        made = requests.PreparedRequest()
        made.__dict__.update(self._model.__dict__)
        made.headers = self._model.headers.copy()
        made.headers.update(request.headers or {})
        body: Any = request.data  # bytes, or nothing
        made.body = body or None
        made.headers["Content-Length"] = str(len(body or b""))
        return made


def check_xml(data: bytes | str, what: str = "the endpoint's answer") -> None:
    """Refuse what is no XML, or has a document type, before a parser that would expand it sees it.

    Without a document type there are no entities but the five that XML knows.

    Raises:
        HypervisorFailure: It is so.
    """

    def refuse(*_: object) -> None:
        raise HypervisorFailure(f"{what} declares a document type or entities; refused")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise HypervisorFailure(f"{what} is not XML ({error})") from None
