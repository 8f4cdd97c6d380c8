"""The wire peer of a simulated network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conformance.errors import ProbeFailed
from conformance.observers.wire import Frame, StreamReport
from labs.simulated.world import frames
from labs.simulated.world.clock import Event
from labs.simulated.world.peer import BEAT_PORT, PeerStation
from labs.simulated.world.station import Connection
from labs.simulated.world.stream import RECORD_BYTES, Tracker, parse_record, record
from labs.simulated.world.world import World

_STREAM_PORT = 7779
_RETRY_S = 0.05


class TcpStream:
    """A running TCP measurement, seen from the peer."""

    def __init__(self, world: World, station: PeerStation, address: str, interval_ms: int) -> None:
        self._clock = world.clock
        self._station = station
        self._interval_s = interval_ms / 1000
        self._buffer = b""
        self._sequence = 0
        self._event: Event | None = None
        self._tracker = Tracker(world.clock.now_ns)
        self._corrupt = False
        connection = station.connect(address, _STREAM_PORT, self._arrived)
        if connection is None:
            raise ProbeFailed(f"no connection to the stream port of {address}")
        self._connection: Connection = connection
        station.push(connection, f"{interval_ms}\n".encode())
        self._next()

    def _next(self) -> None:
        self._event = self._clock.after(self._interval_s, self._tick)

    def _tick(self) -> None:
        if self._connection.reset:
            return
        self._station.retransmit(self._connection)
        self._station.push(self._connection, record(self._sequence, self._clock.now_ns, ""))
        self._sequence += 1
        self._next()

    def _arrived(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= RECORD_BYTES:
            found = parse_record(self._buffer[:RECORD_BYTES])
            self._buffer = self._buffer[RECORD_BYTES:]
            if found is None:
                self._tracker.corrupted += 1
            else:
                self._tracker.arrived(self._clock.now_ns, *found)

    def report(self) -> StreamReport:
        with self._clock.lock:
            return self._tracker.report(self._clock.now_ns, reset=self._connection.reset)

    def close(self) -> None:
        if self._event is not None:
            self._event.cancelled = True
        self._station.hang_up(self._connection)


class Heartbeats:
    """A running count of one guest's heartbeats."""

    def __init__(self, world: World, token: str) -> None:
        self._clock = world.clock
        self._token = token.lower()
        self._tracker = Tracker(world.clock.now_ns)

    def heard(self, line: str) -> None:
        words = line.split()
        if len(words) == 6 and words[0] == "HVB1" and words[1] == self._token:
            self._tracker.arrived(self._clock.now_ns, int(words[3]), int(words[4]), words[2])

    def report(self) -> StreamReport:
        with self._clock.lock:
            return self._tracker.report(self._clock.now_ns)


class Capture:
    """A running capture at the peer's interface, both directions."""

    def __init__(self, world: World, source: str, destination: str) -> None:
        self._clock = world.clock
        self._source = source.lower()
        self._destination = destination.lower()
        self._seen: list[Frame] = []

    def heard(self, data: bytes) -> None:
        head = frames.parse(data)
        if head is None:
            return
        if self._source in ("", head.source) and self._destination in ("", head.destination):
            self._seen.append(
                Frame(self._clock.monotonic(), head.source, head.destination, head.ethertype, head.payload)
            )

    def frames(self) -> Sequence[Frame]:
        return list(self._seen)


class SimulatedPeer:
    """Stands in one network. See `conformance.observers.wire.WirePeer`."""

    def __init__(self, world: World, station: PeerStation) -> None:
        self._world = world
        self._station = station

    @property
    def network(self) -> str:
        return self._station.network.name

    @property
    def mac(self) -> str:
        return self._station.mac

    @property
    def ipv4(self) -> str:
        return self._station.ipv4

    @property
    def ipv6(self) -> str:
        return self._station.own(6)

    @property
    def heartbeat_port(self) -> int:
        return BEAT_PORT

    def ping(
        self, address: str, *, timeout_s: float = 1.0, payload_bytes: int = 56, dont_fragment: bool = False
    ) -> bool:
        clock = self._world.clock
        with clock.lock:
            end_ns = clock.now_ns + round(timeout_s * 1e9)
            while not self._station.ping(address, payload_bytes, dont_fragment=dont_fragment):
                if clock.now_ns >= end_ns:
                    return False
                clock.sleep(min(_RETRY_S, (end_ns - clock.now_ns) / 1e9))
            clock.sleep(0.0005)
            return True

    def lease(self, mac: str) -> str | None:
        return self._station.network.leases.get(mac.lower())

    @contextmanager
    def tcp_stream(self, address: str, *, interval_ms: int = 10) -> Iterator[TcpStream]:
        stream = TcpStream(self._world, self._station, address, interval_ms)
        try:
            yield stream
        finally:
            stream.close()

    @contextmanager
    def heartbeats(self, boot_token: str) -> Iterator[Heartbeats]:
        beats = Heartbeats(self._world, boot_token)
        self._station.beats.append(beats.heard)
        try:
            yield beats
        finally:
            self._station.beats.remove(beats.heard)

    @contextmanager
    def sniff(self, *, source: str = "", destination: str = "") -> Iterator[Capture]:
        capture = Capture(self._world, source, destination)
        self._station.listeners.append(capture.heard)
        try:
            yield capture
        finally:
            self._station.listeners.remove(capture.heard)

    def send_frame(self, frame: bytes) -> None:
        with self._world.clock.lock:
            self._station.send_raw(frame)
