"""The peer process: runs in a guest network and answers requests, a line of JSON each, on standard input and output.

It is started as `python3 -c BOOTSTRAP` with its sources on the first line of standard input (see client.py), so the
machine it runs on needs nothing but Python 3.10. It ends when standard input does, which is also what happens when
whoever started it is killed.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol

from conformance.observers.peer.agents import Agents
from conformance.observers.peer.capture import Capture, send_frame
from conformance.observers.peer.echo import Echo
from conformance.observers.peer.network import Interface, Silent, lease
from conformance.observers.peer.streams import STREAM_PORT, Heartbeats, TcpStream

_AT_ONCE = 64


class Measurement(Protocol):
    """Something that runs until it is closed."""

    def report(self) -> dict[str, Any]: ...

    def close(self) -> dict[str, Any]: ...


class Peer:
    """What can be asked of the peer: every public method is a request, its arguments the request's parameters."""

    def __init__(self, interface: str, lease_file: str) -> None:
        self._interface = Interface(interface)
        self._interface.hasten()
        self._lease_file = lease_file
        self._agents = Agents(self._interface)
        self._heartbeats = Heartbeats(self._interface.tie)
        self._echo = Echo(self._interface.tie)
        self._measurements: dict[int, Measurement] = {}

    def hello(self) -> dict[str, Any]:
        return {
            "mac": self._interface.mac,
            "ipv4": self._interface.ipv4(),
            "ipv6": self._interface.ipv6(),
            "heartbeat_port": self._heartbeats.port,
            "pid": os.getpid(),
        }

    def agent(self, address: str, line: str, timeout_s: float) -> str:
        return self._agents.ask(address, line, timeout_s)

    def ping(self, address: str, payload_bytes: int, dont_fragment: bool, timeout_s: float) -> bool:
        return self._interface.ping(address, payload_bytes, dont_fragment, timeout_s)

    def lease(self, mac: str) -> str | None:
        if not self._lease_file:
            raise ValueError("this peer was not told where the DHCP server's lease file is")
        return lease(self._lease_file, mac)

    def neighbours(self) -> list[dict[str, str]]:
        return self._interface.neighbours()

    def send_frame(self, frame: str) -> None:
        send_frame(self._interface, bytes.fromhex(frame))

    # measurements: each of these starts one and returns its number

    def stream(self, address: str, interval_ms: int, timeout_s: float) -> int:
        connection = self._interface.connect(address, STREAM_PORT, time.monotonic() + timeout_s)
        return self._run(TcpStream(connection, interval_ms))

    def heartbeats(self, uuid: str) -> int:
        return self._run(self._heartbeats.follow(uuid))

    def sniff(self, source: str, destination: str, foreign: bool) -> int:
        return self._run(Capture(self._interface, source, destination, foreign))

    def report(self, number: int) -> dict[str, Any]:
        return self._measurements[number].report()

    def close(self, number: int) -> dict[str, Any]:
        return self._measurements.pop(number).close()

    def _run(self, measurement: Measurement) -> int:
        number = secrets.randbits(52)  # never that of another measurement, not even of an earlier process
        self._measurements[number] = measurement
        return number


def serve(peer: Peer, requests: BinaryIO, write: Callable[[bytes], None]) -> None:
    """Answer requests until `requests` ends; a slow one holds up no other."""
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="request")
    for line in requests:
        pool.submit(_answer, peer, line, write)


def _answer(peer: Peer, line: bytes, write: Callable[[bytes], None]) -> None:
    number = 0
    try:
        request = json.loads(line)
        number, method = request["id"], str(request["method"])
        if method.startswith("_") or not hasattr(Peer, method):
            raise ValueError(f"no such request: {method}")
        answer = {"id": number, "result": getattr(peer, method)(**request["params"])}
    except Silent as error:
        answer = {"id": number, "silent": str(error)}
    except Exception as error:  # noqa: BLE001  the boundary of the process: it goes to the client, which raises it
        answer = {"id": number, "error": f"{type(error).__name__}: {error}"}
    write(json.dumps(answer).encode() + b"\n")


def main(interface: str, lease_file: str = "") -> None:
    """Run the peer on standard input and output; never returns."""
    lock = threading.Lock()

    def write(data: bytes) -> None:
        with lock:
            try:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            except OSError:
                os._exit(1)  # nobody reads any more

    try:
        peer = Peer(interface, lease_file)
    except OSError as error:
        sys.exit(f"{interface}: {error}")
    write(json.dumps({"id": 0, "result": peer.hello()}).encode() + b"\n")
    serve(peer, sys.stdin.buffer, write)
    os._exit(0)  # requests that still run have nobody to answer to
