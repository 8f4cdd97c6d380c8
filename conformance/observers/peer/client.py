"""The wire peer's client: starts the peer process in a guest network and asks it.

The process is started through a shell of wherever the guest network can be entered: a namespace of this machine, or a
host behind SSH. It needs Python there and nothing else.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conformance.errors import GuestSilent, ProbeFailed
from conformance.observers.wire import Frame, Stream, StreamReport
from conformance.shells.shell import Process, Shell

_PACKAGE = "conformance.observers.peer"
_MODULES = ("tally", "network", "agents", "capture", "echo", "streams", "process")  # each after what it imports
_BOOTSTRAP = """\
import json, sys, types
sources, arguments = json.loads(sys.stdin.buffer.readline())
for name, source in sources:
    sys.modules[name] = module = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main(*arguments)
"""
_GRACE_S = 30.0
"""How much longer than a request's own deadline the peer may take before it counts as broken."""
_START_S = 60.0
"""And for its first answer: an interpreter starts slowly on an emulated host beside a VM that boots there."""
_SAID_LINES = 20


def eui64(mac: str) -> str:
    """The IPv6 link-local address that a NIC makes from its MAC (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(mac.replace(":", "").replace("-", ""))
    if len(octets) != 6:
        raise ValueError(f"{mac!r} is not a MAC address")
    octets[0] ^= 0x02
    halves = octets[:3] + b"\xff\xfe" + octets[3:]
    return "fe80::" + ":".join(f"{int.from_bytes(halves[at : at + 2], 'big'):x}" for at in range(0, 8, 2))


class Peer:
    """A peer process, started when it is first asked; the `WirePeer` of a real network.

    Args:
        network: The lab's name of the guest network.
        interface: The interface that is in that network, where the process runs.
        shell: Where that interface is.
        lease_file: The lease file of the network's dnsmasq, where the process runs.
        python: The Python interpreter there (3.10 or later).
    """

    def __init__(
        self, network: str, interface: str, shell: Shell, *, lease_file: str = "", python: str = "python3"
    ) -> None:
        self._network = network
        self._interface = interface
        self._shell = shell
        self._arguments = [interface, lease_file]
        self._python = python
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._reader: threading.Thread | None = None
        self._hello: dict[str, Any] = {}

    @property
    def network(self) -> str:
        return self._network

    @property
    def mac(self) -> str:
        return str(self._about("mac"))

    @property
    def ipv4(self) -> str:
        """The peer's IPv4 address in the network; empty if it has none."""
        return str(self._about("ipv4"))

    @property
    def ipv6(self) -> str:
        """The peer's IPv6 address in the network: a global one if there is one, else the link-local one."""
        return str(self._about("ipv6"))

    @property
    def heartbeat_port(self) -> int:
        return int(self._about("heartbeat_port"))

    def ask_agent(self, address: str, line: str, timeout_s: float) -> str:
        """One request to the agent at an address of this network.

        Raises:
            GuestSilent: No reply in time; a late one is thrown away.
        """
        return str(self._ask("agent", timeout_s, address=address, line=line, timeout_s=timeout_s))

    def ping(
        self, address: str, *, timeout_s: float = 1.0, payload_bytes: int = 56, dont_fragment: bool = False
    ) -> bool:
        """Whether an ICMP echo (v4 or v6) is answered; False also when it does not fit and may not be fragmented."""
        parameters = {"payload_bytes": payload_bytes, "dont_fragment": dont_fragment, "timeout_s": timeout_s}
        return bool(self._ask("ping", timeout_s, address=address, **parameters))

    def lease(self, mac: str) -> str | None:
        found = self._ask("lease", mac=mac)
        return None if found is None else str(found)

    def neighbours(self) -> dict[str, str]:
        """MAC by address of the neighbours that this network's kernel knows."""
        return {entry["address"]: entry["mac"] for entry in self._ask("neighbours") if entry["mac"]}

    def send_frame(self, frame: bytes) -> None:
        self._ask("send_frame", frame=frame.hex())

    @contextmanager
    def tcp_stream(self, address: str, *, interval_ms: int = 10, timeout_s: float = 10.0) -> Iterator[Stream]:
        """A sequenced stream both ways; raises `GuestSilent` when the guest does not accept it in `timeout_s`."""
        parameters = {"address": address, "interval_ms": interval_ms, "timeout_s": timeout_s}
        with self._measure("stream", timeout_s, **parameters) as measurement:
            yield _Stream(measurement)

    @contextmanager
    def heartbeats(self, boot_token: str) -> Iterator[Stream]:
        with self._measure("heartbeats", uuid=boot_token) as measurement:
            yield _Stream(measurement)

    @contextmanager
    def sniff(self, *, source: str = "", destination: str = "") -> Iterator[_Sniffer]:
        """Capture frames that others send. Reading an incomplete capture raises `ProbeFailed`."""
        with self._measure("sniff", source=source, destination=destination, foreign=False) as measurement:
            yield _Sniffer(measurement)

    @contextmanager
    def sniff_foreign(self) -> Iterator[_Sniffer]:
        """Capture unicast frames that are for somebody else and still come to the peer."""
        with self._measure("sniff", source="", destination="", foreign=True) as measurement:
            yield _Sniffer(measurement)

    def close(self) -> None:
        """End the process; a later request starts another one."""
        with self._lock:
            process, self._process, self._hello = self._process, None, {}
        if process is not None:
            process.close()
        if self._reader is not None:
            self._reader.join(timeout=5)

    def _about(self, what: str) -> Any:
        # addresses may come later than the process, so an empty one is looked for again
        if not self._hello.get(what):
            self._hello = self._ask("hello")
        return self._hello[what]

    @contextmanager
    def _measure(self, method: str, wait_s: float = 0.0, **parameters: Any) -> Iterator[_Measurement]:
        measurement = _Measurement(self, int(self._ask(method, wait_s, **parameters)))
        try:
            yield measurement
        except BaseException:
            with suppress(ProbeFailed):  # the first trouble is the one to hear about
                measurement.close()
            raise
        measurement.close()

    def _ask(self, method: str, wait_s: float = 0.0, **parameters: Any) -> Any:
        number = next(self._numbers)
        future: Future[dict[str, Any]] = Future()
        request = json.dumps({"id": number, "method": method, "params": parameters}).encode() + b"\n"
        with self._lock:
            process = self._process
            if process is None:
                process, wait_s = self._start(), wait_s + _START_S
            self._pending[number] = future
            _send(process, request)
        try:
            answer = future.result(wait_s + _GRACE_S)
        except FutureTimeout:
            self._pending.pop(number, None)
            raise ProbeFailed(f"{self._name} did not answer {method!r} within {wait_s + _GRACE_S:.0f} s") from None
        if "silent" in answer:
            raise GuestSilent(answer["silent"])
        if "error" in answer:
            raise ProbeFailed(f"{self._name} could not do {method!r}: {answer['error']}")
        return answer["result"]

    def _start(self) -> Process:
        # whatever it says, such as that there is no Python, comes on standard output between the answers
        command = ["sh", "-c", 'exec "$0" -u -c "$1" 2>&1', self._python, f"exec({_BOOTSTRAP!r})"]
        process = self._shell.popen(command)
        here = Path(__file__).parent
        sources = [(f"{_PACKAGE}.{name}", (here / f"{name}.py").read_text("utf-8")) for name in _MODULES]
        _send(process, json.dumps([sources, self._arguments]).encode() + b"\n")
        self._reader = threading.Thread(target=self._read, args=(process,), name=f"peer {self._network}", daemon=True)
        self._reader.start()
        self._process = process
        return process

    def _read(self, process: Process) -> None:
        """Hand every answer to whoever waits for it, until the process ends; then tell all who still wait."""
        said: deque[str] = deque(maxlen=_SAID_LINES)
        for line in _lines(process):
            try:
                answer = json.loads(line)
                future = self._pending.pop(answer["id"], None)
            except (ValueError, KeyError, TypeError):
                said.append(line[:500].decode("utf-8", "replace").rstrip())
                continue
            if future is not None:
                future.set_result(answer)
        with self._lock:
            if self._process is process:  # else somebody else has closed it
                self._process, self._hello = None, {}
                process.close()
            pending = list(self._pending.values())
            self._pending.clear()
        words = "it said:\n  " + "\n  ".join(said) if said else "it said nothing"
        for future in pending:
            future.set_result({"error": f"its process ended; {words}"})

    @property
    def _name(self) -> str:
        return f"the wire peer in {self._network!r} (on {self._interface})"


def _send(process: Process, data: bytes) -> None:
    # a process that has died is noticed by its reader, which knows what it said
    with suppress(OSError, ValueError):
        left = memoryview(data)
        while left:  # an unbuffered pipe may take a part only; what SSH gives takes all and counts nothing
            left = left[process.stdin.write(left) or len(left) :]


def _lines(process: Process) -> Iterator[bytes]:
    unread = bytearray()
    with suppress(OSError, ValueError):  # closed by another thread, or a connection that broke: the end all the same
        while data := _some(process):
            *whole, rest = data.split(b"\n")
            for line in whole:
                yield bytes(unread) + line
                unread.clear()
            unread += rest
    if unread:
        yield bytes(unread)


def _some(process: Process) -> bytes:
    """Whatever has come, at least a byte; empty at the end."""
    stdout = process.stdout
    # a pipe's readline goes byte by byte; SSH's file has a buffer of its own, and its read(n) waits for all n bytes
    return (stdout.read(65536) or b"") if isinstance(stdout, io.RawIOBase) else stdout.readline()


class PeerChannel:
    """The guest agent behind one NIC, reached through a peer in that NIC's network and no other way.

    Args:
        peer: The peer in the network.
        mac: The NIC's MAC.
        ipv4: Use the DHCP lease's address instead of the link-local one that the guest makes from its MAC.
    """

    def __init__(self, peer: Peer, mac: str, *, ipv4: bool = False) -> None:
        self._peer = peer
        self._mac = mac
        self._address = "" if ipv4 else eui64(mac)

    def ask(self, line: str, timeout_s: float) -> str:
        if "\n" in line or not line.isascii():
            raise ValueError(f"not one ASCII line: {line[:80]!r}")
        address = self._address or self._peer.lease(self._mac)
        if not address:
            raise GuestSilent(f"{self._mac} has no DHCP lease in {self._peer.network!r}")
        return self._peer.ask_agent(address, line, timeout_s)


class _Measurement:
    """Something that runs in the peer process; after its end the last report stays."""

    def __init__(self, peer: Peer, number: int) -> None:
        self._peer = peer
        self._number = number
        self._last: dict[str, Any] | None = None

    def report(self) -> dict[str, Any]:
        if self._last is not None:
            return self._last
        return dict(self._peer._ask("report", number=self._number))

    def close(self) -> None:
        self._last = dict(self._peer._ask("close", number=self._number))


class _Stream:
    def __init__(self, measurement: _Measurement) -> None:
        self._measurement = measurement

    def report(self) -> StreamReport:
        return StreamReport(**self._measurement.report())


class _Sniffer:
    def __init__(self, measurement: _Measurement) -> None:
        self._measurement = measurement

    def frames(self) -> Sequence[Frame]:
        return [_frame(at, base64.b64decode(data)) for at, data in self._measurement.report()["frames"]]


def _frame(at: float, data: bytes) -> Frame:
    return Frame(at, data[6:12].hex(":"), data[:6].hex(":"), int.from_bytes(data[12:14], "big"), data[14:])
