"""The real test guest in QEMU, on a bridge in a namespace with a DHCP server and a peer: as small as a lab can be."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from conformance.guest import build
from conformance.observers.guest import Guest
from conformance.observers.peer.client import Peer, PeerChannel
from conformance.observers.serial import SerialChannel, SocketStream
from conformance.paths import cache_dir
from tests.observers.conftest import NetnsShell, netns

MAC = "02:68:76:00:00:10"
UUID = "00112233-4455-6677-8899-aabbccddeeff"

# ends a command at the end of its input: when the test run ends, even by a kill
WHILE_WATCHED = ("sh", "-c", '"$@" </dev/null & cat >/dev/null; kill $!', "sh")

_NETWORK = """
ip link set lo up
ip link add br0 address 02:68:76:00:00:01 type bridge
echo 0 > /proc/sys/net/ipv6/conf/br0/accept_dad
ip address add 10.98.77.1/24 dev br0
ip address add fd98:77::1/64 dev br0 nodad
ip tuntap add tap0 mode tap
ip link set tap0 master br0
ip link set br0 up
ip link set tap0 up
"""


@dataclass(frozen=True)
class RealGuest:
    peer: Peer
    guest: Guest
    serial: Guest
    shell: NetnsShell
    qemu_pid: int


@contextmanager
def real_guest(folder: Path) -> Iterator[RealGuest]:
    """A guest that has booted and has its lease; gone afterwards."""
    images = build(cache_dir())
    with ExitStack() as ending:
        shell = ending.enter_context(netns())
        shell.script("set -e\n" + _NETWORK)
        leases = folder / "leases"
        dnsmasq = shell.popen(
            [*WHILE_WATCHED, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--interface=br0",
             "--bind-interfaces", "--port=0", "--user=root", "--dhcp-authoritative", "--no-ping",
             "--quiet-dhcp", "--log-facility=/dev/null",
             "--dhcp-range=10.98.77.10,10.98.77.99", f"--dhcp-leasefile={leases}"]
        )  # fmt: skip
        ending.callback(dnsmasq.close)
        qemu = shell.popen(
            [*WHILE_WATCHED, "qemu-system-x86_64",
             "-M", "q35,accel=tcg", "-m", "128", "-nodefaults", "-display", "none", "-snapshot",
             "-uuid", UUID, "-pidfile", f"{folder}/pid",
             "-kernel", str(images.kernel), "-initrd", str(images.initrd), "-append", images.cmdline,
             "-drive", f"if=none,id=root,format=raw,file={images.disk('bios', 'raw')}",
             "-device", "virtio-blk-pci,drive=root,serial=root",
             "-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no",
             "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile=",
             "-chardev", f"socket,id=serial,path={folder}/serial,server=on,wait=off", "-serial", "chardev:serial"]
        )  # fmt: skip
        ending.callback(qemu.close)
        peer = Peer("real", "br0", shell, lease_file=str(leases), python=sys.executable)
        ending.callback(peer.close)

        def console() -> SocketStream:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(folder / "serial"))
            return SocketStream(connection)

        guest = Guest(PeerChannel(peer, MAC))
        guest.wait_up(seconds=90)
        pid = int((folder / "pid").read_text())
        yield RealGuest(peer, guest, Guest(SerialChannel(console)), shell, pid)
