"""The built images, and one guest that the tests which do not change its power state share."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.guest import GuestImages, build
from conformance.paths import cache_dir
from tests.guest.vm import WIRE_MAC, Vm, overlay, running

DATA_SIZE = 8 << 20
BROKEN_AT = 512 << 10  # of the disk "fixed": reading there fails


@pytest.fixture(scope="session")
def images() -> GuestImages:
    return build(cache_dir())


@pytest.fixture(scope="package")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[socket.socket]:
    """The other end of the shared guest's second NIC: one Ethernet frame a datagram."""
    folder = tmp_path_factory.mktemp("wire")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(str(folder / "peer"))
        peer.settimeout(5)
        yield peer


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared guest's data disk, a raw file that tests may also read and damage from outside."""
    path = tmp_path_factory.mktemp("data") / "data.raw"
    with path.open("wb") as file:
        file.truncate(DATA_SIZE)
    return path


@pytest.fixture(scope="package")
def vm(images: GuestImages, tmp_path_factory: pytest.TempPathFactory, wire: socket.socket, data: Path) -> Iterator[Vm]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.fail("qemu-system-x86_64 is missing: sudo apt-get install qemu-system-x86")
    folder = tmp_path_factory.mktemp("guest")
    peer = Path(str(wire.getsockname()))
    small = folder / "small.raw"
    subprocess.run(["truncate", "-s", "1M", small], check=True)
    broken = {
        "driver": "blkdebug",
        "node-name": "fixed",
        "read-only": True,
        "image": {"driver": "file", "filename": str(small), "read-only": True},
        "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "sector": BROKEN_AT // 512}],
    }
    extra = [
        "-drive", f"if=none,id=data,format=raw,file={data},cache=writeback",
        "-device", "virtio-blk-pci,drive=data,serial=data0",
        "-blockdev", json.dumps(broken),
        "-device", "virtio-blk-pci,drive=fixed,serial=fixed",
        "-netdev", f"dgram,id=wire,local.type=unix,local.path={peer.parent}/guest,remote.type=unix,remote.path={peer}",
        "-device", f"virtio-net-pci,netdev=wire,mac={WIRE_MAC},romfile=",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=qga,path={folder}/qga,server=on,wait=off",
        "-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
    ]  # fmt: skip
    with running(images, folder, overlay(images, folder), extra=extra) as vm:
        vm.wait_up()
        yield vm


@pytest.fixture
def qga(vm: Vm) -> Iterator[socket.socket]:
    """The host's end of the guest agent's port."""
    folder = vm.folder.parent
    with socket.socket(socket.AF_UNIX) as port:
        port.connect(str(folder / "qga"))
        port.settimeout(5)
        yield port
