"""Replies are found in the noise of a serial console, and only the right ones."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from conformance.errors import GuestSilent
from conformance.observers.serial import SerialChannel, SocketStream

Answer = Callable[[bytes, bytes], bytes]


@pytest.fixture
def console() -> Iterator[Callable[[Answer], SerialChannel]]:
    """Makes a channel to a console that answers a request, given its id and text, with some bytes."""
    far_ends: list[socket.socket] = []

    def make(answer: Answer) -> SerialChannel:
        def connect() -> SocketStream:
            near, far = socket.socketpair()
            far_ends.append(far)

            def serve() -> None:
                request = b""
                while not (found := re.search(rb"\x02HVC (\S+) ([^\n]*)\n", request)):
                    if not (data := far.recv(4096)):
                        return
                    request += data
                with suppress(OSError):  # the channel has heard enough
                    for piece in re.findall(rb"(?s).{1,7}", answer(found[1], found[2])):
                        far.sendall(piece)

            threading.Thread(target=serve, daemon=True).start()
            return SocketStream(near)

        return SerialChannel(connect)

    yield make
    for far in far_ends:
        far.close()


def test_a_reply_is_found_in_noise(console: Callable[[Answer], SerialChannel]) -> None:
    channel = console(
        lambda key, verb: (
            b'[    1.0] random: \xff\x02HVC\x02HVC 0000 {"ok":false}\r\n'
            b"\x02HVC " + key + b" " + verb + b"\r\n"  # echoed
            b"[    1.2] kernel talks\x02HVC " + key + b' {"ok":true,"verb":"' + verb + b'"}\r\nmore\n'
        )
    )
    assert channel.ask("boot now", 2) == '{"ok":true,"verb":"boot now"}'


def test_the_reply_to_another_request_is_not_taken(console: Callable[[Answer], SerialChannel]) -> None:
    channel = console(
        lambda key, _: b"\x02HVC " + key[::-1] + b'x {"ok":true}\n\x02HVC ' + key[:-1] + b' {"ok":true}\n'
    )
    with pytest.raises(GuestSilent, match="last words"):
        channel.ask("boot", 0.2)


def test_half_a_reply_is_silence(console: Callable[[Answer], SerialChannel]) -> None:
    with pytest.raises(GuestSilent):
        console(lambda key, _: b"\x02HVC " + key + b' {"ok":true}').ask("boot", 0.2)


def test_endless_noise_is_silence_and_not_hoarded(console: Callable[[Answer], SerialChannel]) -> None:
    noise = b"\x02HVC x" * 100_000
    with pytest.raises(GuestSilent) as silence:
        console(lambda *_: noise).ask("boot", 0.5)
    assert len(str(silence.value)) < 1000


def test_a_reply_after_much_noise_is_found(console: Callable[[Answer], SerialChannel]) -> None:
    channel = console(lambda key, _: b"noise\n" * 60_000 + b"\x02HVC " + key + b' {"ok":true}\n')
    assert channel.ask("boot", 5) == '{"ok":true}'


def test_a_console_that_is_not_there_is_silence() -> None:
    def connect() -> SocketStream:
        raise ConnectionRefusedError("nobody")

    with pytest.raises(GuestSilent, match="nobody"):
        SerialChannel(connect).ask("boot", 1)


def test_a_console_that_closes_is_silence() -> None:
    def connect() -> SocketStream:
        near, far = socket.socketpair()
        far.close()
        return SocketStream(near)

    with pytest.raises(GuestSilent, match="broke"):
        SerialChannel(connect).ask("boot", 1)


def test_a_console_that_takes_nothing_is_silence() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with suppress(BlockingIOError):
        while near.send(b"x" * 65536):  # what nobody reads
            pass
    with pytest.raises(GuestSilent, match="timed out"):
        SerialChannel(lambda: SocketStream(near)).ask("boot", 0.1)
    far.close()


def test_a_request_is_one_line() -> None:
    with pytest.raises(ValueError):
        SerialChannel(lambda: SocketStream(socket.socket())).ask("print a\nreboot", 1)
