"""Sends UDP datagrams back to where they came from, as guest agents do, so that a guest can probe a path by itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

ECHO_PORT = 7778
_LARGEST = 65535


class Echo:
    """Answers until the process ends. Peers of several workers may share a network: whichever gets it answers."""

    def __init__(self, bind: Callable[[socket.socket], None]) -> None:
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bind(self._socket)
        self._socket.bind(("::", ECHO_PORT))
        threading.Thread(target=self._run, name="echo", daemon=True).start()

    def _run(self) -> None:
        while True:
            datagram, sender = self._socket.recvfrom(_LARGEST)
            with suppress(OSError):  # whoever asked may be gone
                self._socket.sendto(datagram, sender)
