"""Requests to guest agents over TCP: one line there, one line of JSON back, never another request's answer.

Part of the peer process: standard library only, Python 3.10 and later. Protocol: docs/guest-agent.md.
"""

from __future__ import annotations

import socket
import threading
import time

from conformance.observers.peer.network import Interface, Silent

AGENT_PORT = 7777
REPLY_BYTES = 64 * 1024
_IDLE_S = 0.5
"""A connection idle for longer is not used again: the guest may have been reverted or replaced in the meantime without
a word, and a request into a connection that only one side remembers looks like a silent guest."""


class Agents:
    """Asks agents over one interface and keeps connections that are in steady use."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._lock = threading.Lock()
        self._idle: dict[str, list[tuple[float, socket.socket]]] = {}

    def ask(self, address: str, line: str, timeout_s: float) -> str:
        """One request, on a connection that nobody else uses meanwhile.

        Raises:
            Silent: No whole reply in time, or the connection broke; it is not used again. The request may have been
                carried out all the same, so it is never repeated here.
        """
        deadline = time.monotonic() + timeout_s
        connection = self._take(address)
        if connection is None:
            connection = self._interface.connect(address, AGENT_PORT, deadline)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.sendall(line.encode("ascii") + b"\n")
            reply = _read_line(connection, deadline)
        except Silent as error:
            self._drop(address, connection)
            raise Silent(f"no answer from {address} to {line[:80]!r} within {timeout_s} s: {error}") from None
        except OSError as error:
            self._drop(address, connection)
            why = error.strerror or "timed out"
            raise Silent(f"no answer from {address} to {line[:80]!r} within {timeout_s} s: {why}") from None
        except BaseException:
            connection.close()
            raise
        self._keep(address, connection)
        return reply.decode("utf-8", "replace")

    def _keep(self, address: str, connection: socket.socket) -> None:
        """Keep a good connection for the next request, and let go of those that have been idle for too long."""
        now = time.monotonic()
        with self._lock:
            self._idle.setdefault(address, []).append((now, connection))
            for other in list(self._idle):
                fresh = [entry for entry in self._idle[other] if now - entry[0] < _IDLE_S]
                for _, stale in self._idle[other][: -len(fresh) or None]:
                    stale.close()
                if fresh:
                    self._idle[other] = fresh
                else:
                    del self._idle[other]

    def _take(self, address: str) -> socket.socket | None:
        """An idle connection that is still good."""
        while True:
            with self._lock:
                idle = self._idle.get(address)
                if not idle:
                    self._idle.pop(address, None)
                    return None
                since, connection = idle.pop()
            if time.monotonic() - since < _IDLE_S and _quiet(connection):
                return connection
            connection.close()

    def _drop(self, address: str, connection: socket.socket) -> None:
        """What broke one connection has broken the idle ones to this guest, too."""
        with self._lock:
            idle = self._idle.pop(address, [])
        for _, other in [(0.0, connection), *idle]:
            other.close()


def _quiet(connection: socket.socket) -> bool:
    """Whether a connection is open and has nothing unread: an answer nobody waits for would be taken for the next."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """One line without its end; nothing may follow it."""
    reply = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Silent("timed out" + (f" after {len(reply)} bytes" if reply else ""))
        connection.settimeout(left)
        data = connection.recv(REPLY_BYTES)
        if not data:
            raise Silent("the connection was closed")
        reply += data
        end = reply.find(b"\n")
        if end > REPLY_BYTES or (end < 0 and len(reply) > REPLY_BYTES):
            raise ValueError(f"the guest agent's reply is longer than {REPLY_BYTES} bytes")
        if end >= 0:
            if end != len(reply) - 1:
                raise ValueError(f"the guest agent sent more than one reply: {bytes(reply[:200])!r}")
            return bytes(reply[:end]).rstrip(b"\r")
