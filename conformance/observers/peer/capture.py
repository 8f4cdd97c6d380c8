"""Raw frames: capturing them with the kernel's timestamps, and sending them.

Part of the peer process: standard library only, Python 3.10 and later.
"""

from __future__ import annotations

import base64
import select
import socket
import struct
import threading
import time
from typing import Any

from conformance.observers.peer.network import Interface

_ETH_P_ALL = 0x0003
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_SOL_PACKET, _ADD_MEMBERSHIP, _STATISTICS, _AUXDATA, _MR_PROMISC, _OUTGOING = 263, 1, 6, 8, 1, 4
_VLAN_VALID, _VLAN_TPID_VALID = 0x10, 0x40
_FRAMES, _BYTES = 20_000, 4 * 1024 * 1024


class Capture:
    """A running capture of what others send; complete from the moment it is made.

    Args:
        interface: Where to listen, promiscuously.
        source: Only frames from this MAC; empty for all.
        destination: Only frames to this MAC; empty for all.
        foreign: Only unicast frames that are for somebody else.
    """

    def __init__(self, interface: Interface, source: str = "", destination: str = "", foreign: bool = False) -> None:
        self._source, self._destination = _mac_bytes(source), _mac_bytes(destination)
        self._own, self._foreign = _mac_bytes(interface.mac), foreign
        self._lock = threading.Lock()
        self._frames: list[tuple[float, bytes]] = []
        self._kept_bytes = 0
        self._overflow = ""
        # protocol 0 until everything is set up: a socket that listens before it is bound hears other interfaces
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 2 * _BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        membership = struct.pack("iHH8s", interface.index, _MR_PROMISC, 0, b"")
        self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
        self._socket.setblocking(False)
        self._socket.bind((interface.name, _ETH_P_ALL))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def report(self) -> dict[str, Any]:
        """Every frame so far: time since the epoch in seconds, and its bytes in base64."""
        with self._lock:
            self._drain()
            if self._overflow:
                raise ValueError(f"the capture is not complete: {self._overflow}; narrow its filter")
            return {"frames": [[at, base64.b64encode(frame).decode()] for at, frame in self._frames]}

    def close(self) -> dict[str, Any]:
        """End the capture; returns the last report."""
        try:
            return self.report()
        finally:
            self._stopping.set()
            self._thread.join()
            self._socket.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if select.select([self._socket], [], [], 0.1)[0]:
                with self._lock:
                    self._drain()

    def _drain(self) -> None:
        while True:
            try:
                frame, ancillary, _, origin = self._socket.recvmsg(65535, 256)
            except BlockingIOError:
                break
            if origin[2] != _OUTGOING:  # what the peer sent itself is not something it saw
                self._keep(frame, ancillary)
        _, drops = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        if drops:
            self._overflow = f"the kernel dropped {drops} frames"

    def _keep(self, frame: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        if self._source and frame[6:12] != self._source:
            return
        if self._destination and frame[:6] != self._destination:
            return
        if self._foreign and (frame[0] & 1 or frame[:6] == self._own):
            return
        at = time.time()
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= 16:
                seconds, nanoseconds = struct.unpack("qq", data[:16])
                at = seconds + nanoseconds / 1e9
            if level == _SOL_PACKET and kind == _AUXDATA and len(data) >= 20:
                status, _, _, _, _, tag, protocol = struct.unpack("IIIHHHH", data[:20])
                if status & _VLAN_VALID:  # the kernel takes the tag out of the frame: put it back
                    protocol = protocol if status & _VLAN_TPID_VALID else 0x8100
                    frame = frame[:12] + struct.pack("!HH", protocol, tag) + frame[12:]
        self._kept_bytes += len(frame)
        if len(self._frames) >= _FRAMES or self._kept_bytes > _BYTES:
            self._overflow = f"more than {_FRAMES} frames or {_BYTES} bytes"
            return
        self._frames.append((at, frame))


def send_frame(interface: Interface, frame: bytes) -> None:
    """Send a frame as it is, forged or not; `frame` begins with the destination MAC and has no checksum."""
    if len(frame) < 14:
        raise ValueError(f"a frame of {len(frame)} bytes has no whole Ethernet header")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((interface.name, 0))
        raw.send(frame)


def _mac_bytes(mac: str) -> bytes:
    data = bytes.fromhex(mac.replace(":", ""))
    if len(data) not in (0, 6):
        raise ValueError(f"{mac!r} is not a MAC address")
    return data
