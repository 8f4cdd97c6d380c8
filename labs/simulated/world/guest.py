"""A guest: what its RAM holds, how it boots and shuts down, and what it does with its disks and NICs."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from labs.simulated.world import dhcp, frames
from labs.simulated.world.agent import Agent
from labs.simulated.world.clock import SECOND_NS
from labs.simulated.world.disks import BLOCK, Layer
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.frames import Packet
from labs.simulated.world.services import Beat, StreamServer, Writer
from labs.simulated.world.station import Station

if TYPE_CHECKING:
    from labs.simulated.world.process import Process

BOOT_S = 0.8
SHUTDOWN_S = 0.2
DHCP_S = 0.05
BOOT_RECORD = 1 * BLOCK
STATE_RECORD = 33 * 1024 * 1024 + BLOCK
"""Where the boot counter and the clean marker are kept; a disk too small for it has none."""
_MAGIC = b"HVIMAGE1"


@dataclass(eq=False, slots=True)
class Timer:
    """Something the guest does later, in its own time; `period_ns` 0 means once."""

    due_ns: int
    period_ns: int
    call: Callable[[], None]


@dataclass(slots=True)
class Memory:
    """What the software keeps in RAM and a memory snapshot therefore brings back."""

    boot_id: str
    boots: int = 0
    clean: bool = False
    up: bool = False
    booting_ns: int = 0
    hung: bool = False
    ignore_acpi: bool = False
    markers: dict[str, str] = field(default_factory=dict)
    patterns: dict[int, tuple[int, set[int]]] = field(default_factory=dict)
    dirty_mib: int = 0
    frozen: bool = False
    problems: list[str] = field(default_factory=list)
    addresses: dict[str, tuple[str, int, list[str]]] = field(default_factory=dict)
    beat: Beat | None = None
    writer: Writer | None = None


class Guest:
    """The software inside one VM, from one power-on or reset to the next.

    It runs in a process of a host, and moves to another one with a migration or through a state file. Its timers and
    its monotonic clock stand still while its vCPUs do.
    """

    def __init__(self, process: Process) -> None:
        self.world = process.host.world
        self.memory = Memory(boot_id=self.world.new_uuid())
        self.process: Process | None = None
        self.panicked = False
        self.stopping = False
        self.stations: dict[str, Station] = {}
        self.streams = StreamServer(self)
        self.agent = Agent(self)
        self._timers: list[Timer] = []
        self._monotonic_ns = 0
        self._since_ns: int | None = None
        self._wall_offset_ns = self.world.wall_ns()
        self._generation = 0

    # time

    @property
    def executing(self) -> bool:
        """Whether its vCPUs run."""
        return self._since_ns is not None

    @property
    def answering(self) -> bool:
        """Whether the agent would answer a request that reaches it."""
        return self.executing and self.memory.up and not self.memory.hung and not self.stopping

    def monotonic_ns(self) -> int:
        return self._monotonic_ns + (self.world.clock.now_ns - self._since_ns if self._since_ns is not None else 0)

    def wall_ns(self) -> int:
        return self._wall_offset_ns + self.monotonic_ns()

    def set_wall_clock(self) -> None:
        """Take the right time from the host, as guest tools do after a resume."""
        self._wall_offset_ns = self.world.wall_ns() - self.monotonic_ns()

    def turn_back(self, seconds: float) -> None:
        """Set the monotonic clock back, which must never happen; timers keep their distance."""
        shift_ns = round(seconds * SECOND_NS)
        self._monotonic_ns -= shift_ns
        for timer in self._timers:
            timer.due_ns -= shift_ns

    def run(self, process: Process) -> None:
        """Execute in this process from now on."""
        self.process = process
        if self.panicked or self.executing:
            return
        self._since_ns = self.world.clock.now_ns
        self._generation += 1
        for timer in self._timers:
            self._arm(timer)

    def halt(self) -> None:
        """Stop executing: paused, suspended, moved or dead."""
        self._monotonic_ns = self.monotonic_ns()
        self._since_ns = None
        self._generation += 1

    def later(self, seconds: float, call: Callable[[], None], *, every: bool = False) -> Timer:
        """Call `call` after `seconds` of the guest's own time, once or again and again."""
        delay_ns = round(seconds * SECOND_NS)
        timer = Timer(self.monotonic_ns() + delay_ns, delay_ns if every else 0, call)
        self._timers.append(timer)
        if self.executing:
            self._arm(timer)
        return timer

    def stop_timer(self, timer: Timer | None) -> None:
        if timer is not None and timer in self._timers:
            self._timers.remove(timer)

    def _arm(self, timer: Timer) -> None:
        generation = self._generation

        def fire() -> None:
            if generation != self._generation or timer not in self._timers:
                return
            if timer.period_ns:
                timer.due_ns += timer.period_ns
                self._arm(timer)
            else:
                self._timers.remove(timer)
            timer.call()

        self.world.clock.after((timer.due_ns - self.monotonic_ns()) / SECOND_NS, fire)

    # boot and shutdown

    def boot(self) -> None:
        """Begin to boot; userspace is there after a while, if the root disk can be booted from."""
        self.memory.booting_ns = self.monotonic_ns()
        self.console("firmware: booting from disk 'root'")
        self.later(BOOT_S, self._userspace)

    def root(self) -> Layer | None:
        return self.process.layers.get("root") if self.process else None

    def image(self) -> dict[str, str] | None:
        """What the boot record of the root disk says, or None when there is none."""
        root = self.root()
        record = root.read(BOOT_RECORD, BLOCK) if root else b""
        return json.loads(record[len(_MAGIC) :].rstrip(b"\0")) if record.startswith(_MAGIC) else None

    def _userspace(self) -> None:
        root, image = self.root(), self.image()
        if root is None or image is None:
            self.console("firmware: no bootable device")
            return
        kept = root.size_bytes > STATE_RECORD
        state = root.read(STATE_RECORD, BLOCK).rstrip(b"\0") if kept else b""
        found: dict[str, Any] = json.loads(state) if state else {"boots": 0, "clean": True}
        self.memory.boots = found["boots"] + 1
        self.memory.clean = found["clean"]
        self._save_state(clean=False)
        self.memory.up = True
        self.console(f"Linux version 6.12-simulated, boot {self.memory.boots}, id {self.memory.boot_id}")
        self.console("hvconform agent ready")
        for mac in list(self.process.vifs if self.process else ()):
            self.nic_added(mac)

    def _save_state(self, *, clean: bool) -> None:
        root = self.root()
        if root is not None and root.size_bytes > STATE_RECORD:
            text = json.dumps({"boots": self.memory.boots, "clean": clean}).encode()
            try:
                root.write(STATE_RECORD, text.ljust(BLOCK, b"\0"))
            except HypervisorError as error:
                self.io_error("root", error)

    def press_power_button(self) -> bool:
        """The ACPI power button, or the guest tools' shutdown request. Returns whether the guest follows."""
        return self._orderly(reboot=False)

    def request_reboot(self) -> bool:
        """The guest tools' reboot request."""
        return self._orderly(reboot=True)

    def _orderly(self, *, reboot: bool, forced: bool = False) -> bool:
        deaf = self.memory.hung or (self.memory.ignore_acpi and not forced)
        if not self.executing or not self.memory.up or deaf:
            return False
        if not self.stopping:
            self.stopping = True
            self.console("reboot: orderly shutdown begins")
            self.later(SHUTDOWN_S, lambda: self._ended(reboot))
        return True

    def shut_down_from_inside(self, *, reboot: bool) -> None:
        self._orderly(reboot=reboot, forced=True)

    def _ended(self, reboot: bool) -> None:
        self._save_state(clean=True)
        self.console("reboot: restarting system" if reboot else "reboot: power down")
        process = self.process
        if process is not None:
            process.reset() if reboot else process.powered_off()

    def panic(self) -> None:
        """Crash the kernel; it stays down."""
        self.console("Kernel panic - not syncing: sysrq triggered crash")
        self.panicked = True
        self.halt()
        if self.process is not None:
            self.process.host.note(f"{self.process.domain.config.name}: guest panicked")

    # RAM

    def copy_of(self, other: Memory, monotonic_ns: int) -> None:
        """Become what a memory snapshot held; connections to others are not in it."""
        self.memory = copy.deepcopy(other)
        self._monotonic_ns = monotonic_ns
        if not self.memory.up:
            left = self.memory.booting_ns + round(BOOT_S * SECOND_NS) - monotonic_ns
            self.later(max(0, left) / SECOND_NS, self._userspace)
        for service in (self.memory.beat, self.memory.writer):
            if service is not None:
                service.start(self)

    # devices

    def console(self, line: str) -> None:
        if self.process is not None:
            self.process.domain.write_console(f"[{self.monotonic_ns() / SECOND_NS:12.6f}] {line}\r\n".encode())

    def io_error(self, serial: str, error: Exception) -> None:
        line = f"I/O error, dev {serial}: {error}"
        self.memory.problems.append(line)
        self.console(line)

    def nic_added(self, mac: str) -> None:
        """The kernel found a NIC: bring it up and ask for an address."""
        station = self.station(mac)
        station.ipv6 = [frames.link_local(mac)]
        self.later(DHCP_S, lambda: self.dhcp(mac))

    def station(self, mac: str) -> Station:
        """The stack behind one NIC."""
        if mac not in self.stations:
            network = self.process.vifs[mac].network if self.process else None
            station = Station(
                mac,
                lambda frame, fragments: self._transmit(mac, frame, fragments),
                lambda: self.world.clock.now_ns,
                network.mtu if network else 1500,
            )
            station.udp[7777] = lambda _sender, _port, line: self.agent.datagram(line)
            station.udp[7778] = lambda _sender, _port, payload: payload
            station.udp[68] = lambda _sender, _port, payload: self._leased(mac, payload)
            station.accept[7779] = lambda connection: self.streams.accept(mac, connection)
            self.stations[mac] = station
            if mac in self.memory.addresses:
                station.ipv4, station.prefix4, station.ipv6 = self.memory.addresses[mac]
        return self.stations[mac]

    def route(self, address: str) -> Station | None:
        """The NIC to reach an address by: the one in its network, if any is."""
        wanted = ip_address(address)
        for mac, station in self.stations.items():
            vif = self.process.vifs.get(mac) if self.process else None
            if vif is None or not station.own(wanted.version):
                continue
            prefixes = (vif.network.ipv4, vif.network.ipv6)
            if wanted.is_link_local or any(prefix is not None and wanted in prefix for prefix in prefixes):
                return station
        return None

    def nic_removed(self, mac: str) -> None:
        self.stations.pop(mac, None)
        self.memory.addresses.pop(mac, None)

    def _transmit(self, mac: str, frame: bytes, fragments: bool) -> None:
        vif = self.process.vifs.get(mac) if self.process else None
        if vif is not None and self.executing:
            vif.network.transmit(vif.port, frame, fragments=fragments)

    def receive(self, mac: str, frame: bytes) -> None:
        """A frame has arrived at a NIC."""
        if self.executing and self.memory.up and not self.panicked:
            self.station(mac).receive(frame)

    def send_frame(self, mac: str, frame: bytes) -> None:
        self._transmit(mac, frame, False)

    def dhcp(self, mac: str) -> None:
        """Ask for a lease; asks again later while nobody answers."""
        vif = self.process.vifs.get(mac) if self.process else None
        if vif is None or mac not in self.stations:
            return
        station = self.stations[mac]
        if vif.port.link and vif.network.ipv6 is not None:
            station.ipv6 = [frames.link_local(mac), frames.eui64(str(vif.network.ipv6.network_address), mac)]
        discover = dhcp.build(dhcp.Message(dhcp.DISCOVER, mac))
        body = frames.udp(dhcp.CLIENT_PORT, dhcp.SERVER_PORT, discover)
        packet = frames.ip(Packet("0.0.0.0", "255.255.255.255", frames.UDP, body))
        self._transmit(mac, frames.ethernet(frames.BROADCAST, mac, *packet), False)
        if not station.ipv4:
            self.later(0.5, lambda: self.dhcp(mac))
        else:
            self.memory.addresses[mac] = (station.ipv4, station.prefix4, station.ipv6)

    def _leased(self, mac: str, payload: bytes) -> None:
        message = dhcp.parse(payload)
        if message is not None and message.kind == dhcp.ACK and message.mac == mac:
            station = self.stations[mac]
            station.ipv4, station.prefix4 = message.address, message.prefix

    def slot(self, sequence: int) -> bytes:
        """One whole slot of the continuous writer."""
        body = json.dumps({"magic": "HVW1", "seq": sequence, "boot_id": self.memory.boot_id}).encode()
        body = body.ljust(BLOCK - 4, b"\0")
        return body + zlib.crc32(body).to_bytes(4, "little")
