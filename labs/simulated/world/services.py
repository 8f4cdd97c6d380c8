"""What keeps running in a guest: heartbeats, the continuous disk writer, and the sequenced stream's server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labs.simulated.world import frames
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.station import Connection
from labs.simulated.world.stream import RECORD_BYTES, parse_record, record

if TYPE_CHECKING:
    from labs.simulated.world.guest import Guest, Timer

_SLOT = 4096


class _Service:
    """Copied with the RAM it lives in, but never its timer: that belongs to one running guest."""

    timer: Timer | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = object.__new__(type(self))
        twin.__dict__.update({**self.__dict__, "timer": None})
        return twin


@dataclass
class Beat(_Service):
    """UDP heartbeats to one address."""

    address: str
    port: int
    interval_ms: int
    sequence: int = 0
    timer: Timer | None = None

    def start(self, guest: Guest) -> None:
        self.timer = guest.later(self.interval_ms / 1000, lambda: self._tick(guest), every=True)

    def _tick(self, guest: Guest) -> None:
        if guest.memory.hung or guest.process is None:
            return
        uuid = guest.process.domain.config.uuid
        text = f"HVB1 {uuid} {guest.memory.boot_id} {self.sequence} {guest.monotonic_ns()} {guest.wall_ns()}"
        self.sequence += 1
        station = guest.route(self.address)
        if station is not None:
            station.send_ip(self.address, frames.UDP, frames.udp(40000, self.port, text.encode()))


@dataclass
class Writer(_Service):
    """The continuous disk writer: sequence number n goes, flushed, to slot n % slots."""

    serial: str
    offset: int
    slots: int
    interval_ms: int
    acknowledged: int = 0
    errors: int = 0
    longest_stall_ms: int = 0
    last_ns: int = 0
    timer: Timer | None = None

    def start(self, guest: Guest) -> None:
        self.last_ns = guest.monotonic_ns()
        self.timer = guest.later(self.interval_ms / 1000, lambda: self._tick(guest), every=True)

    def _tick(self, guest: Guest) -> None:
        if guest.memory.hung or guest.memory.frozen or guest.stopping or guest.process is None:
            return
        sequence = self.acknowledged + 1
        layer = guest.process.layers.get(self.serial)
        try:
            if layer is None:
                raise HypervisorError("bad-request", "no such disk")
            layer.write(self.offset + sequence % self.slots * _SLOT, guest.slot(sequence))
        except HypervisorError as error:
            self.errors += 1
            guest.io_error(self.serial, error)
            return
        self.acknowledged = sequence
        now_ns = guest.monotonic_ns()
        self.longest_stall_ms = max(self.longest_stall_ms, (now_ns - self.last_ns) // 1_000_000)
        self.last_ns = now_ns


@dataclass
class _Session:
    mac: str
    connection: Connection
    buffer: bytes = b""
    sequence: int = 0
    timer: Timer | None = field(default=None)


class StreamServer:
    """The stream port: whoever connects says an interval, and then both sides send a record each interval."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def accept(self, mac: str, connection: Connection) -> None:
        session = _Session(mac, connection)
        connection.arrived = lambda data: self._arrived(session, data)

    def _arrived(self, session: _Session, data: bytes) -> None:
        session.buffer += data
        if session.timer is None:
            line, newline, session.buffer = session.buffer.partition(b"\n")
            if not newline:
                session.buffer = line
                return
            session.timer = self._guest.later(int(line) / 1000, lambda: self._tick(session), every=True)
        while len(session.buffer) >= RECORD_BYTES:
            if parse_record(session.buffer[:RECORD_BYTES]) is None:
                session.connection.reset = True
            session.buffer = session.buffer[RECORD_BYTES:]

    def _tick(self, session: _Session) -> None:
        guest = self._guest
        station = guest.stations.get(session.mac)
        if station is None or session.connection.reset:
            guest.stop_timer(session.timer)
            return
        if guest.memory.hung:
            return
        station.retransmit(session.connection)
        station.push(session.connection, record(session.sequence, guest.monotonic_ns(), guest.memory.boot_id))
        session.sequence += 1
