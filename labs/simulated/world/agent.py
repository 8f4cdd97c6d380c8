"""The agent in a guest: answers the verbs of the agent protocol from what the guest really holds."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from labs.simulated.world import frames
from labs.simulated.world.disks import BLOCK, Layer
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.pattern import pattern
from labs.simulated.world.services import Beat, Writer

if TYPE_CHECKING:
    from labs.simulated.world.guest import Guest
    from labs.simulated.world.process import Process

VERSION = "simulated-1"
_RESERVED_KIB = 12 * 1024

Data = Mapping[str, Any]


class Refused(Exception):
    """The agent answers with an error."""


class Agent:
    """One guest's agent. `handle` takes a request line and returns the reply line."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def datagram(self, line: bytes) -> bytes | None:
        """A request from the network; silence while the agent does not answer."""
        return self.handle(line.decode("ascii", "replace")).encode() if self._guest.answering else None

    def handle(self, line: str) -> str:
        verb, *arguments = line.split() or [""]
        call: Callable[..., Data] | None = getattr(self, "_do_" + verb.replace("-", "_"), None)
        try:
            if call is None:
                raise Refused(f"unknown verb {verb!r}")
            data = call(*arguments)
        except (Refused, HypervisorError, ValueError, TypeError) as error:
            return json.dumps({"ok": False, "error": str(error)})
        return json.dumps({"ok": True, "data": data})

    @property
    def _process(self) -> Process:
        process = self._guest.process
        if process is None:
            raise Refused("not running")
        return process

    def _layer(self, serial: str) -> Layer:
        layer = self._process.layers.get(serial)
        if layer is None:
            raise Refused(f"no disk {serial}")
        return layer

    # who and what

    def _do_boot(self) -> Data:
        memory = self._guest.memory
        uptime = self._guest.monotonic_ns() // 1_000_000
        return {"boot_id": memory.boot_id, "boots": memory.boots, "clean": memory.clean, "uptime_ms": uptime}

    def _do_identity(self) -> Data:
        config = self._process.domain.config
        image = self._guest.image() or {}
        return {
            "smbios_uuid": config.uuid,
            "image_id": image.get("image_id", ""),
            "firmware": config.firmware,
            "agent_version": VERSION,
        }

    def _do_cpus(self) -> Data:
        flags = hashlib.sha256(b"fpu sse2 simulated").hexdigest()
        return {"online": self._process.vcpus, "flags_sha256": flags, "model": "Simulated CPU"}

    def _do_memory(self) -> Data:
        total = self._process.memory_mib * 1024 - _RESERVED_KIB
        used = sum(mib for mib, _ in self._guest.memory.patterns.values()) * 1024
        return {"total_kib": total, "available_kib": max(0, total - 20 * 1024 - used)}

    def _do_disks(self) -> Data:
        disks = []
        for number, (serial, layer) in enumerate(self._process.layers.items()):
            slot = self._process.disk_slot(serial)
            disks.append(
                {
                    "name": f"vd{chr(ord('a') + number)}",
                    "serial": serial,
                    "size_bytes": layer.size_bytes,
                    "readonly": False,
                    "address": f"0000:00:{slot:02x}.0",
                }
            )
        return {"disks": disks}

    def _do_nics(self) -> Data:
        nics = []
        for number, (mac, vif) in enumerate(self._process.vifs.items()):
            station = self._guest.station(mac)
            addresses = [f"{station.ipv4}/{station.prefix4}"] if station.ipv4 else []
            nics.append(
                {
                    "name": f"eth{number}",
                    "mac": mac,
                    "mtu": vif.network.mtu,
                    "carrier": vif.port.link,
                    "addresses": addresses + [f"{address}/64" for address in station.ipv6],
                    "queues": 1,
                    "address": f"0000:01:{vif.config.slot:02x}.0",
                }
            )
        return {"nics": nics}

    def _do_resolver(self) -> Data:
        for mac, vif in self._process.vifs.items():
            if self._guest.station(mac).ipv4:
                gateway6 = frames.link_local(vif.network.peer_mac) if vif.network.ipv6 else ""
                return {"gateway4": vif.network.gateway4, "gateway6": gateway6, "dns": [vif.network.gateway4]}
        return {"gateway4": "", "gateway6": "", "dns": []}

    def _do_clocks(self) -> Data:
        monotonic = self._guest.monotonic_ns()
        return {"monotonic_ns": monotonic, "realtime_ns": self._guest.wall_ns(), "boottime_ns": monotonic}

    def _do_kernel_problems(self) -> Data:
        return {"lines": self._guest.memory.problems}

    # disks

    def _do_disk_write(self, serial: str, offset: str, length: str, seed: str) -> Data:
        layer = self._layer(serial)
        if self._guest.memory.frozen:
            raise Refused("file systems are frozen")
        data = pattern(int(seed), int(offset), int(length))
        try:
            layer.write(int(offset), data)
        except HypervisorError as error:
            self._guest.io_error(serial, error)
            raise
        return {"sha256": hashlib.sha256(data).hexdigest()}

    def _do_disk_hash(self, serial: str, offset: str, length: str) -> Data:
        return {"sha256": hashlib.sha256(self._layer(serial).read(int(offset), int(length))).hexdigest()}

    def _do_writer_start(self, serial: str, offset: str, slots: str, interval_ms: str) -> Data:
        self._layer(serial)
        self._do_writer_stop()
        writer = Writer(serial, int(offset), int(slots), int(interval_ms))
        self._guest.memory.writer = writer
        writer.start(self._guest)
        return {}

    def _do_writer_status(self) -> Data:
        writer = self._guest.memory.writer
        if writer is None:
            return {"running": False, "acknowledged": 0, "errors": 0, "longest_stall_ms": 0}
        stall = 0 if writer.timer is None else (self._guest.monotonic_ns() - writer.last_ns) // 1_000_000
        return {
            "running": writer.timer is not None,
            "acknowledged": writer.acknowledged,
            "errors": writer.errors,
            "longest_stall_ms": max(writer.longest_stall_ms, stall),
        }

    def _do_writer_stop(self) -> Data:
        writer = self._guest.memory.writer
        if writer is not None:
            self._guest.stop_timer(writer.timer)
            writer.timer = None
        return {}

    def _do_writer_read(self, serial: str, offset: str, slots: str) -> Data:
        layer, newest = self._layer(serial), 0
        for slot in range(int(slots)):
            data = layer.read(int(offset) + slot * BLOCK, BLOCK)
            if not any(data):
                continue
            if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
                raise Refused(f"slot {slot} is torn")
            newest = max(newest, json.loads(data[:-4].rstrip(b"\0"))["seq"])
        return {"newest": newest}

    # RAM

    def _do_ram_put(self, key: str, value: str) -> Data:
        self._guest.memory.markers[key] = value
        return {}

    def _do_ram_get(self, key: str) -> Data:
        return {"value": self._guest.memory.markers.get(key)}

    def _do_ram_fill(self, mib: str, seed: str) -> Data:
        if int(mib) > self._process.memory_mib - 32:
            raise Refused("not that much memory")
        self._guest.memory.patterns[int(seed)] = (int(mib), set())
        return {}

    def _do_ram_verify(self, seed: str) -> Data:
        held = self._guest.memory.patterns.get(int(seed))
        return {"intact": held is not None and not held[1]}

    def _do_ram_dirty(self, mib: str) -> Data:
        self._guest.memory.dirty_mib = int(mib)
        return {}

    # power

    def _do_reboot(self) -> Data:
        self._guest.later(0.01, lambda: self._guest.shut_down_from_inside(reboot=True))
        return {}

    def _do_poweroff(self) -> Data:
        self._guest.later(0.01, lambda: self._guest.shut_down_from_inside(reboot=False))
        return {}

    def _do_panic(self) -> Data:
        self._guest.later(0.001, self._guest.panic)
        return {}

    def _do_hang(self) -> Data:
        self._guest.memory.hung = True
        return {}

    def _do_ignore_acpi(self, ignore: str) -> Data:
        self._guest.memory.ignore_acpi = ignore == "1"
        return {}

    # network

    def _do_beat_start(self, address: str, port: str, interval_ms: str) -> Data:
        self._do_beat_stop()
        beat = Beat(address, int(port), int(interval_ms))
        self._guest.memory.beat = beat
        beat.start(self._guest)
        return {}

    def _do_beat_stop(self) -> Data:
        beat = self._guest.memory.beat
        if beat is not None:
            self._guest.stop_timer(beat.timer)
            self._guest.memory.beat = None
        return {}

    def _do_echo(self, address: str, payload_bytes: str, timeout_ms: str) -> Data:
        payload = bytes(int(payload_bytes))
        station = self._guest.route(address)
        answered = station is not None and station.request(address, 7778, payload) == payload
        return {"answered": answered, "waited_ms": 0 if answered else int(timeout_ms)}

    def _do_send_frame(self, mac: str, data: str) -> Data:
        if mac not in self._process.vifs:
            raise Refused(f"no NIC {mac}")
        frame = bytes.fromhex(data)
        self._guest.send_frame(mac, frame)
        return {"sent": len(frame)}

    def _do_foreign_unicast(self, mac: str, other: str) -> Data:
        if mac not in self._process.vifs:
            raise Refused(f"no NIC {mac}")
        station = self._guest.station(mac)
        if station.overheard is None:
            station.overheard = Counter()
        return {"count": station.overheard[other]}

    def _do_renew(self, mac: str) -> Data:
        if mac not in self._process.vifs:
            raise Refused(f"no NIC {mac}")
        station = self._guest.station(mac)
        station.ipv4 = ""
        self._guest.memory.addresses.pop(mac, None)
        self._guest.dhcp(mac)
        return {}

    def _do_print(self, token: str) -> Data:
        self._guest.console(token)
        return {}
