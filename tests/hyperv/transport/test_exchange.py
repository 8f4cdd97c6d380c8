"""One encrypted message and its answer, over a connection whose other end is this test's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import requests

from conformance.errors import HypervisorFailure
from drivers.hyperv.transport import exchange
from drivers.hyperv.transport.exchange import ANSWER_BYTES

BODY = b"\0encrypted\xff"
SECONDS = 10.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def request() -> requests.PreparedRequest:
    headers = {"Accept": "*/*", "Accept-Encoding": "gzip", "Content-Type": "multipart/encrypted"}
    return requests.Request("POST", "http://h.example:5985/wsman", data=BODY, headers=headers).prepare()


def answered(ends: tuple[socket.socket, socket.socket], answer: bytes, seconds: float = SECONDS) -> requests.Response:
    """The answer that is made of some bytes, after which the other end says no more."""
    here, there = ends
    writer = threading.Thread(target=lambda: (there.sendall(answer), there.shutdown(socket.SHUT_WR)))
    writer.start()
    try:
        response, _ = exchange.exchange(here, request(), seconds)
    finally:
        here.close()  # a writer whose answer nobody reads to its end does not wait for ever
        writer.join()
    return response


def test_the_request_goes_out_as_it_was_prepared_and_asks_for_nothing_packed(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    answered(ends, b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n")
    head, _, body = ends[1].recv(1 << 16).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /wsman HTTP/1.1"
    assert sorted(lines) == [
        "Accept-Encoding: identity",
        f"Content-Length: {len(BODY)}",
        "Content-Type: multipart/encrypted",
        "Host: h.example:5985",
    ]
    assert body == BODY


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oh dear\r\ncontent-type: x/y\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 500 Oh dear\r\ncontent-type: x/y\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
    ],
    ids=["length", "chunks"],
)
def test_an_answer_is_read_to_its_end_and_no_further(ends: tuple[socket.socket, socket.socket], answer: bytes) -> None:
    ends[1].sendall(answer)
    response, again = exchange.exchange(ends[0], request(), SECONDS)
    assert (response.status_code, response.reason, response.content) == (500, "Oh dear", b"abcde")
    assert response.headers["Content-Type"] == "x/y"
    assert again
    with pytest.raises(requests.HTTPError, match="Oh dear"):
        response.raise_for_status()


def test_a_connection_that_the_host_closes_is_not_used_again(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    _, again = exchange.exchange(ends[0], request(), SECONDS)
    assert not again


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "no HTTP", "two lengths", "another protocol"],
)
def test_what_is_no_whole_answer_is_a_broken_connection(
    ends: tuple[socket.socket, socket.socket], answer: bytes
) -> None:
    with pytest.raises(requests.ConnectionError):
        answered(ends, answer)


def test_two_answers_to_one_request_are_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(HypervisorFailure, match="more than one answer"):
        answered(ends, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 2)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "], ids=["body", "header"])
def test_an_answer_without_end_is_refused(ends: tuple[socket.socket, socket.socket], head: bytes) -> None:
    with pytest.raises(HypervisorFailure, match="larger than 4 MiB"):
        answered(ends, head + b"x" * (ANSWER_BYTES + 1))


def test_silence_is_no_answer_in_time(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(requests.ReadTimeout):
        exchange.exchange(ends[0], request(), 0.05)
