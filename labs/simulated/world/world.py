"""The world: hosts, storages, networks, images and time, all in memory, the same for the same seed."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Mapping

from conformance.lab.inventory import Image, LabInventory
from labs.simulated.world.clock import VirtualClock
from labs.simulated.world.dhcp import DhcpServer
from labs.simulated.world.disks import BLOCK, QCOW2_MAGIC, File, Files, Layer, Space
from labs.simulated.world.domain import Volume
from labs.simulated.world.guest import BOOT_RECORD
from labs.simulated.world.host import Host
from labs.simulated.world.network import Network
from labs.simulated.world.peer import PeerStation

IMAGES = "/images/"


class World:
    """Everything there is. Use `get` for the world of a lab.

    Args:
        inventory: What the world consists of.
        seed: Decides every UUID and boot id.
    """

    def __init__(self, inventory: LabInventory, seed: int = 0) -> None:
        self.inventory = inventory
        self.clock = VirtualClock()
        self.random = random.Random(seed)
        self._epoch_ns = time.time_ns() - self.clock.now_ns
        self._pid = 1000
        self._port = 5900
        self.shared_files: dict[str, File] = {}
        self.volumes: dict[str, Volume] = {}
        shared = [storage for storage in inventory.storages if storage.shared]
        # a folder of a Windows host is a prefix with the other slash
        prefixes = (IMAGES, *(f"{storage.path}{slash}" for storage in shared for slash in "/\\"))
        shared_spaces = {storage.name: Space(storage.name) for storage in shared}
        self.hosts: dict[str, Host] = {}
        for host in inventory.hosts:
            made = Host(self, host.name, host.memory_mib, Files(self.shared_files, prefixes))
            for storage in inventory.storages:
                made.spaces[storage.name] = shared_spaces.get(storage.name) or Space(f"{host.name}:{storage.name}")
            self.hosts[host.name] = made
        self.networks: dict[str, Network] = {}
        self.peers: dict[str, PeerStation] = {}
        for number, net in enumerate(inventory.networks):
            network = Network(net.name, net.ipv4, net.ipv6, net.mtu, list(self.hosts))
            network.peer_mac = f"02:00:00:00:00:{number + 1:02x}"
            self.networks[net.name] = network
            DhcpServer(network, f"02:00:00:00:01:{number + 1:02x}")
            self.peers[net.name] = PeerStation(network, self.clock)
        for image in inventory.images:
            self.shared_files[str(image.path)] = image_file(image)

    def wall_ns(self) -> int:
        """The right time of day."""
        return self._epoch_ns + self.clock.now_ns

    def new_uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def new_pid(self) -> int:
        self._pid += 1
        return self._pid

    def new_console_port(self) -> int:
        self._port += 1
        return self._port


def image_file(image: Image) -> Layer:
    """The bytes of a catalogue image, which depend on nothing but its name, format and size."""
    layer = Layer(image.size_bytes, "raw" if image.format == "raw" else "qcow2")
    if image.name == "corrupt":
        layer.valid = False
        return layer
    record = b"HVIMAGE1" + json.dumps({"image_id": image.image_id}).encode()
    layer.write(BOOT_RECORD, record.ljust(BLOCK, b"\0"))
    if image.format == "raw":
        # A raw disk whose guest wrote a qcow2 header with a backing file: it must stay a raw disk (nova LP#2137507).
        header = QCOW2_MAGIC + (3).to_bytes(4, "big") + (104).to_bytes(8, "big") + (11).to_bytes(4, "big")
        layer.write(0, (header.ljust(104, b"\0") + b"/etc/shadow").ljust(BLOCK, b"\0"))
    return layer


_worlds: dict[str, World] = {}
_guard = threading.Lock()


def get(inventory: LabInventory) -> World:
    """The world of this lab in this process; made when it is asked for the first time."""
    with _guard:
        if inventory.name not in _worlds:
            _worlds[inventory.name] = World(inventory)
        return _worlds[inventory.name]


def forget(name: str) -> None:
    """Let a world end."""
    with _guard:
        _worlds.pop(name, None)


def known() -> Mapping[str, World]:
    return dict(_worlds)
