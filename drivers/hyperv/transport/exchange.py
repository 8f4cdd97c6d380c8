"""One encrypted message and its answer, over the connection that has logged in.

requests and urllib3 make that connection, log in and keep their rules. What they do besides for every single request
(cookies, redirects, hooks, a pool's bookkeeping, heads parsed as if they were mail) has nothing to do once that is
done, and took half of the CPU of a call: here llhttp reads the answer.
"""

from __future__ import annotations

import io
import socket
from urllib.parse import urlsplit

import httptools
import requests

from conformance.errors import HypervisorFailure

ANSWER_BYTES = 4 << 20
"""The largest HTTP answer that is read. WinRM's own limit is 500 KiB by default, before encryption."""

_PIECE_BYTES = 64 << 10


def bounded(size: int) -> None:
    """Raise `HypervisorFailure` for an answer that has grown too large."""
    if size > ANSWER_BYTES:
        raise HypervisorFailure(f"the endpoint's answer is larger than {ANSWER_BYTES >> 20} MiB")


class _Answer:
    """What llhttp finds; the methods are called by it."""

    def __init__(self) -> None:
        self.begun = 0
        self.complete = False
        self.status = 0
        self.keep_alive = False
        self.reason = b""
        self.headers = requests.structures.CaseInsensitiveDict[str]()
        self.body: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1")] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.complete = True
        # of the message that is just read; asked later, the parser tells of the next
        self.status, self.keep_alive = self.parser.get_status_code(), self.parser.should_keep_alive()


def exchange(sock: socket.socket, request: requests.PreparedRequest, seconds: float) -> tuple[requests.Response, bool]:
    """Send a request and read its answer.

    Args:
        seconds: How long the connection may be silent.

    Returns:
        The answer, and whether the connection can be used again.

    Raises:
        requests.ReadTimeout: The connection was silent for longer.
        requests.ConnectionError: It broke, or what came over it is no HTTP.
        HypervisorFailure: The answer is too large, or more than one.
    """
    url = urlsplit(str(request.url))
    lines = [f"POST {url.path} HTTP/1.1", f"Host: {url.netloc}", "Accept-Encoding: identity"]
    unwanted = ("accept", "accept-encoding")  # the answer is not unpacked
    lines += [f"{name}: {value!s}" for name, value in request.headers.items() if name.lower() not in unwanted]
    head = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
    body = request.body
    assert isinstance(body, bytes)  # a message that was encrypted
    answer = _Answer()
    try:
        sock.settimeout(seconds)
        # in one: two packets wake the other side twice
        sock.sendall(head + body)
        size = 0
        while not answer.complete:
            piece = sock.recv(_PIECE_BYTES)
            if not piece:
                raise requests.ConnectionError("the connection was closed before the answer was whole", request=request)
            size += len(piece)
            bounded(size)
            answer.parser.feed_data(piece)
    except TimeoutError as error:
        raise requests.ReadTimeout(error, request=request) from error
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, OSError) as error:
        if isinstance(error, requests.RequestException):
            raise
        raise requests.ConnectionError(error, request=request) from error
    if answer.begun > 1:
        raise HypervisorFailure("the endpoint sent more than one answer to one request")
    response = requests.Response()
    response.status_code, response.reason = answer.status, answer.reason.decode("latin-1")
    response.headers = answer.headers
    response.raw = io.BytesIO(b"".join(answer.body))
    response.request, response.url = request, str(request.url)
    return response, answer.keep_alive
