"""The guest agent over a serial console: requests and replies picked out of whatever else the console says.

A request is the line ``\\x02HVC <id> <verb> ...`` and its reply the line ``\\x02HVC <id> <JSON>``. Everything else is
noise: firmware, kernel messages, what a console server replays, our own request echoed by a terminal, and replies to
requests of long ago, which a guest reverted to a snapshot may well send again.
"""

from __future__ import annotations

import re
import secrets
import select
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

from conformance.errors import GuestSilent
from conformance.waiting import now

REPLY_BYTES = 64 * 1024
_LAST_WORDS = 200
_MARK = b"\x02HVC "


class ByteStream(Protocol):
    """A serial line, or what stands for it."""

    def send(self, data: bytes, timeout_s: float) -> None:
        """Send all of it; raises `OSError` when the line is gone or takes no more: a guest may not be reading."""
        ...

    def receive(self, timeout_s: float) -> bytes:
        """What has come in; empty when nothing came in time. Raises `OSError` when the line is gone."""
        ...

    def close(self) -> None: ...


class SocketStream:
    """A serial line behind a socket, such as QEMU's character device."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, data: bytes, timeout_s: float) -> None:
        self._connection.settimeout(timeout_s)
        self._connection.sendall(data)

    def receive(self, timeout_s: float) -> bytes:
        if not select.select([self._connection], [], [], max(0.0, timeout_s))[0]:
            return b""
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionResetError("the other side closed it")
        return data

    def close(self) -> None:
        self._connection.close()


class SerialChannel:
    """The agent of one guest, over its serial console. The line is opened for each request and closed after it.

    So it does not matter on which host the guest was the last time, and a person can look at the console in between.

    Args:
        connect: Opens the line, wherever the guest is now; raises `OSError` or `GuestSilent` when there is none.
    """

    def __init__(self, connect: Callable[[], ByteStream]) -> None:
        self._connect = connect

    def ask(self, line: str, timeout_s: float) -> str:
        if "\n" in line or not line.isascii():
            raise ValueError(f"not one ASCII line: {line[:80]!r}")
        deadline = now() + timeout_s
        id = secrets.token_hex(6)
        try:
            with closing(self._connect()) as stream:
                # the newline first ends whatever half a line is on the way to the guest
                stream.send(b"\n" + _MARK + f"{id} {line}\n".encode(), timeout_s)
                return _reply(stream, id, deadline)
        except OSError as error:
            raise GuestSilent(f"the serial console broke during {line[:80]!r}: {error}") from None


def _reply(stream: ByteStream, id: str, deadline: float) -> str:
    mark = _MARK + id.encode() + b" "
    # the brace tells a reply from our own request, which a terminal may echo
    pattern = re.compile(re.escape(mark) + rb"(\{[^\r\n]*)\r*\n")
    seen = bytearray()
    while (left := deadline - now()) > 0:
        seen += stream.receive(left)
        if found := pattern.search(seen):
            return found[1].decode("utf-8", "replace")
        # a guest may print for ever: keep what may become the reply, else some last words
        begun = seen.rfind(mark)
        if begun < 0 or len(seen) - begun > REPLY_BYTES + len(mark):
            begun = max(0, len(seen) - _LAST_WORDS)
        del seen[:begun]
    raise GuestSilent(f"no answer on the serial console; its last words: {bytes(seen[-_LAST_WORDS:])!r}")
