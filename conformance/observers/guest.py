"""The guest probe: a typed client of the test guest's agent, over whatever channel reaches it.

The agent's protocol (docs/guest-agent.md) is one line a request and one line of JSON a reply, so that the same client
works over the network, over a serial console and against the simulated world.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from conformance.errors import GuestSilent, ProbeFailed
from conformance.waiting import until

T = TypeVar("T")

_PATIENCE_S = 1.0


class Channel(Protocol):
    """Carries one request line to a guest agent and brings one reply line back."""

    def ask(self, line: str, timeout_s: float) -> str:
        """Send `line` (no newline) and return the reply (no newline).

        Raises:
            GuestSilent: No reply within `timeout_s`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Boot:
    """Which boot of the guest this is.

    `boot_id` is the kernel's, new at every boot. `boots` is a counter on the root disk, one more at every boot.
    `clean` is whether the boot before this one ended by an orderly shutdown.
    """

    boot_id: str
    boots: int
    clean: bool
    uptime_ms: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the guest is. `smbios_uuid` is lower-case, as the firmware shows it; `firmware` is bios, uefi or direct."""

    smbios_uuid: str
    image_id: str
    firmware: str
    agent_version: str


@dataclass(frozen=True, slots=True)
class Cpus:
    online: int
    flags_sha256: str
    model: str


@dataclass(frozen=True, slots=True)
class Memory:
    """`total_kib` is MemTotal: what the kernel has after its own reservations."""

    total_kib: int
    available_kib: int


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """A disk the guest sees. `address` is its bus address, such as a PCI slot."""

    name: str
    serial: str
    size_bytes: int
    readonly: bool
    address: str


@dataclass(frozen=True, slots=True)
class GuestNic:
    """A NIC the guest sees. `addresses` are CIDR strings. `carrier` is the link state."""

    name: str
    mac: str
    mtu: int
    carrier: bool
    addresses: tuple[str, ...]
    queues: int
    address: str


@dataclass(frozen=True, slots=True)
class Clocks:
    """The guest's clocks in nanoseconds, read together."""

    monotonic_ns: int
    realtime_ns: int
    boottime_ns: int


@dataclass(frozen=True, slots=True)
class Resolver:
    """What DHCP and RA told the guest. Empty strings where nothing was told."""

    gateway4: str
    gateway6: str
    dns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """The continuous disk writer: `acknowledged` is the last sequence number whose write and flush completed."""

    running: bool
    acknowledged: int
    errors: int
    longest_stall_ms: int


class Guest:
    """One guest's agent.

    Every method raises `GuestSilent` when no answer comes in time and `ProbeFailed` when the agent refuses.

    Args:
        channel: How the agent is reached.
        timeout_s: Deadline of one request.
        boot_s: Deadline of a boot, from power-on to the agent's first answer.
    """

    def __init__(self, channel: Channel, *, timeout_s: float = 5.0, boot_s: float = 60.0) -> None:
        self._channel = channel
        self.timeout_s = timeout_s
        self.boot_s = boot_s

    def ask(self, verb: str, *args: object, timeout_s: float | None = None) -> Mapping[str, Any]:
        """One request to the agent; returns the reply's `data`."""
        words = [verb, *(str(argument) for argument in args)]
        if not all(word.isascii() and word.isprintable() and word and " " not in word for word in words):
            raise ValueError(f"the agent takes ASCII words without spaces, not {words}")
        reply = self._channel.ask(" ".join(words), self.timeout_s if timeout_s is None else timeout_s)
        try:
            answer = json.loads(reply)
            ok, data = answer["ok"] is True, answer.get("data", {})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _unfit(verb, reply) from None
        if not ok:
            raise ProbeFailed(f"the guest agent refused {verb!r}: {str(answer.get('error', 'no reason given'))[:500]}")
        if not isinstance(data, dict):
            raise _unfit(verb, reply)
        return data

    def _read(
        self, read: Callable[[Mapping[str, Any]], T], verb: str, *args: object, timeout_s: float | None = None
    ) -> T:
        """One request, its answer read by `read`. What a guest says is not to be trusted to have the right shape."""
        data = self.ask(verb, *args, timeout_s=timeout_s)
        try:
            return read(data)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise _unfit(verb, json.dumps(data)) from None

    # who and which boot

    def boot(self) -> Boot:
        return self._boot()

    def _boot(self, timeout_s: float | None = None) -> Boot:
        return self._read(
            lambda data: Boot(str(data["boot_id"]), int(data["boots"]), bool(data["clean"]), int(data["uptime_ms"])),
            "boot",
            timeout_s=timeout_s,
        )

    def _boot_soon(self) -> Boot:
        # asked often and with little patience: a request that got lost in a boot will never be answered
        return self._boot(min(self.timeout_s, _PATIENCE_S))

    def identity(self) -> Identity:
        return self._read(
            lambda data: Identity(
                *(str(data[key]) for key in ("smbios_uuid", "image_id", "firmware", "agent_version"))
            ),
            "identity",
        )

    def answers(self, timeout_s: float = 0.5) -> bool:
        """Whether the agent answers right now."""
        try:
            self.ask("boot", timeout_s=timeout_s)
        except GuestSilent:
            return False
        return True

    def wait_up(self, *, seconds: float | None = None) -> Boot:
        """Wait until the agent answers."""
        return until(
            "the guest agent to answer",
            self._boot_soon,
            seconds=self.boot_s if seconds is None else seconds,
            ignore=(GuestSilent,),
        )

    def wait_new_boot(self, before: Boot, *, seconds: float | None = None) -> Boot:
        """Wait until another boot than `before` answers."""
        return until(
            f"a boot other than {before.boot_id}",
            self._boot_soon,
            lambda boot: boot.boot_id != before.boot_id,
            seconds=self.boot_s if seconds is None else seconds,
            ignore=(GuestSilent,),
        )

    # hardware

    def cpus(self) -> Cpus:
        return self._read(
            lambda data: Cpus(int(data["online"]), str(data["flags_sha256"]), str(data["model"])),
            "cpus",
        )

    def memory(self) -> Memory:
        return self._read(lambda data: Memory(int(data["total_kib"]), int(data["available_kib"])), "memory")

    def disks(self) -> Sequence[GuestDisk]:
        return self._read(lambda data: [_disk(disk) for disk in data["disks"]], "disks")

    def disk(self, serial: str) -> GuestDisk | None:
        """The disk with this serial, or None while the guest has none."""
        return next((disk for disk in self.disks() if disk.serial == serial), None)

    def nics(self) -> Sequence[GuestNic]:
        return self._read(lambda data: [_nic(nic) for nic in data["nics"]], "nics")

    def nic(self, mac: str) -> GuestNic | None:
        """The NIC with this MAC, or None while the guest has none."""
        return next((nic for nic in self.nics() if nic.mac == mac), None)

    def resolver(self) -> Resolver:
        return self._read(
            lambda data: Resolver(
                str(data["gateway4"]), str(data["gateway6"]), tuple(str(server) for server in data["dns"])
            ),
            "resolver",
        )

    def clocks(self) -> Clocks:
        return self._read(
            lambda data: Clocks(int(data["monotonic_ns"]), int(data["realtime_ns"]), int(data["boottime_ns"])),
            "clocks",
        )

    def wall_clock_error(self, realtime: Callable[[], float]) -> float:
        """By how many seconds the wall clock is wrong, at least; `realtime` is the right one, in s since 1970."""
        before = realtime()
        here = self.clocks().realtime_ns / 1e9
        return max(before - here, here - realtime(), 0.0)

    def kernel_problems(self) -> Sequence[str]:
        """Lines of the kernel log that speak of a panic, a bug, a lockup or an I/O error."""
        return self._read(lambda data: [str(line) for line in data["lines"]], "kernel-problems")

    # disks

    def write_pattern(self, serial: str, offset_bytes: int, length_bytes: int, seed: int) -> str:
        """Write and flush a pattern made from `seed`; returns the SHA-256 of what was written. Multiples of 4096."""
        return self._read(_sha256, "disk-write", serial, offset_bytes, length_bytes, seed, timeout_s=self.boot_s)

    def hash_disk(self, serial: str, offset_bytes: int, length_bytes: int) -> str:
        """SHA-256 of a range, read past every cache of the guest. Multiples of 4096."""
        return self._read(_sha256, "disk-hash", serial, offset_bytes, length_bytes, timeout_s=self.boot_s)

    def start_writer(self, serial: str, offset_bytes: int, slots: int, interval_ms: int) -> None:
        """Start the continuous writer: sequence number n goes, flushed, to slot n % slots of 4096 bytes."""
        self.ask("writer-start", serial, offset_bytes, slots, interval_ms)

    def writer(self) -> WriterStatus:
        return self._read(
            lambda data: WriterStatus(
                bool(data["running"]), int(data["acknowledged"]), int(data["errors"]), int(data["longest_stall_ms"])
            ),
            "writer-status",
        )

    def stop_writer(self) -> WriterStatus:
        self.ask("writer-stop")
        return self.writer()

    def newest_written(self, serial: str, offset_bytes: int, slots: int) -> int:
        """The highest whole sequence number on the disk; 0 if there is none; raises `ProbeFailed` on a torn slot."""
        return self._read(
            lambda data: int(data["newest"]), "writer-read", serial, offset_bytes, slots, timeout_s=self.boot_s
        )

    # RAM

    def put_ram(self, key: str, value: str) -> None:
        """Keep a marker in the agent's memory. Letters, digits and dashes only."""
        self.ask("ram-put", key, value)

    def get_ram(self, key: str) -> str | None:
        return self._read(lambda data: None if data["value"] is None else str(data["value"]), "ram-get", key)

    def fill_ram(self, mib: int, seed: int) -> None:
        """Hold a pattern of `mib` MiB in memory."""
        self.ask("ram-fill", mib, seed, timeout_s=self.boot_s)

    def ram_intact(self, seed: int) -> bool:
        """Whether the pattern made from `seed` is still there, every byte."""
        return self._read(lambda data: bool(data["intact"]), "ram-verify", seed, timeout_s=self.boot_s)

    def dirty_ram(self, mib: int) -> None:
        """Keep rewriting `mib` MiB until the guest ends; 0 stops it."""
        self.ask("ram-dirty", mib)

    # power, from inside

    def reboot(self) -> None:
        """Reboot from inside, in an orderly way."""
        self.ask("reboot")

    def power_off(self) -> None:
        """Power off from inside, in an orderly way."""
        self.ask("poweroff")

    def panic(self) -> None:
        """Crash the kernel; it stays down."""
        self._tell("panic")

    def hang(self) -> None:
        """Stop answering and ignore the power button, with interrupts still on."""
        self._tell("hang")

    def ignore_power_button(self, ignore: bool = True) -> None:
        """Ignore, or heed again, the power button and the guest tools' shutdown request."""
        self.ask("ignore-acpi", int(ignore))

    def _tell(self, verb: str) -> None:
        with suppress(GuestSilent):  # silence is the point of it
            self.ask(verb, timeout_s=0.5)

    # network

    def start_heartbeat(self, address: str, port: int, interval_ms: int) -> None:
        """Send sequenced UDP heartbeats with both clocks to a peer until the guest ends."""
        self.ask("beat-start", address, port, interval_ms)

    def stop_heartbeat(self) -> None:
        self.ask("beat-stop")

    def echo(self, address: str, payload_bytes: int = 32, *, timeout_ms: int = 1000) -> bool:
        """Whether another guest's (or the peer's) UDP echo port answers; sent with don't-fragment."""
        patience_s = self.timeout_s + timeout_ms / 1000
        return self._read(
            lambda data: bool(data["answered"]), "echo", address, payload_bytes, timeout_ms, timeout_s=patience_s
        )

    def send_frame(self, mac: str, frame: bytes) -> None:
        """Send a raw Ethernet frame, forged or not, from the NIC with this MAC."""
        self.ask("send-frame", mac, frame.hex())

    def count_foreign_unicast(self, mac: str, other: str) -> int:
        """Make the NIC `mac` promiscuous and count the frames for `other` that it was shown since the first call.

        Only one other's: a peer still talks for a while to a VM that is gone, and what nobody claims is for everybody.
        """
        return self._read(lambda data: int(data["count"]), "foreign-unicast", mac, other)

    def renew_lease(self, mac: str) -> None:
        """Ask for the DHCP lease again, from scratch."""
        self.ask("renew", mac, timeout_s=self.boot_s)

    # the console

    def print_console(self, token: str) -> None:
        """Write a line to the serial console."""
        self.ask("print", token)


def _disk(disk: Mapping[str, Any]) -> GuestDisk:
    return GuestDisk(
        str(disk["name"]),
        str(disk["serial"]),
        int(disk["size_bytes"]),
        bool(disk["readonly"]),
        str(disk["address"]),
    )


def _nic(nic: Mapping[str, Any]) -> GuestNic:
    return GuestNic(
        str(nic["name"]),
        str(nic["mac"]),
        int(nic["mtu"]),
        bool(nic["carrier"]),
        tuple(str(address) for address in nic["addresses"]),
        int(nic["queues"]),
        str(nic["address"]),
    )


def _sha256(data: Mapping[str, Any]) -> str:
    return str(data["sha256"])


def _unfit(verb: str, reply: str) -> ProbeFailed:
    return ProbeFailed(f"the guest agent answered {reply[:200]!r} to {verb!r}")
