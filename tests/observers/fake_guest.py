"""A guest made of one thread a connection, which speaks the agent's protocol and misbehaves on request.

Runs as a program in a network namespace of the test. Besides `boot`, its verbs are ways to behave badly.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable

BOOT_ID = "11111111-2222-3333-4444-555555555555"
_LEAP_NS = 10**12
"""How far a faulty clock goes back; a clock starts that far ahead, for a machine that is younger has no such past."""

_stream_fault = "none"


def record(sequence: int, monotonic_ns: int) -> bytes:
    body = struct.pack("<4sIQQ36s", b"HVS1", 0, sequence, monotonic_ns, BOOT_ID.encode())
    return body + struct.pack("<I", zlib.crc32(body))


def serve(port: int, handle: Callable[[socket.socket], None]) -> None:
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def agent(connection: socket.socket) -> None:
    global _stream_fault
    requests = connection.makefile("rb")
    for line in requests:
        verb, *args = line.decode().split()
        data: dict[str, object] = {"line": line.decode().strip()}
        if verb == "never":
            continue
        if verb == "late":
            time.sleep(int(args[0]) / 1000)
        elif verb == "hang-up":
            connection.shutdown(socket.SHUT_RDWR)
            return
        elif verb == "two":
            connection.sendall(b'{"ok":true,"data":{"which":1}}\n{"ok":true,"data":{"which":2}}\n')
            continue
        elif verb == "endless":
            connection.sendall(b"x" * 200_000)
            continue
        elif verb == "bytes":
            connection.sendall(b"\x00\xff\xfe nothing of the kind\n")
            continue
        elif verb == "stream-fault":
            _stream_fault = args[0]
        elif verb == "beat":
            address, port, payload = args[0], int(args[1]), " ".join(args[2:])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.sendto(payload.encode(), (address, port))
        connection.sendall(json.dumps({"ok": True, "data": data}).encode() + b"\n")


def stream(connection: socket.socket) -> None:
    asked = b""
    while not asked.endswith(b"\n"):
        asked += connection.recv(1)
    interval = int(asked) / 1000
    sequence, ahead = 0, _LEAP_NS
    while True:
        data = record(sequence, time.monotonic_ns() + ahead)
        if sequence == 20:
            if _stream_fault == "pause":
                time.sleep(0.3)
            elif _stream_fault == "twice":
                data += data
            elif _stream_fault == "corrupt":
                data = data[:30] + bytes([data[30] ^ 1]) + data[31:]
            elif _stream_fault == "skip":
                data, sequence = b"", sequence + 4
            elif _stream_fault == "backwards":
                ahead = 0
            elif _stream_fault == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                return
        try:
            connection.sendall(data)
        except OSError:
            return
        sequence += 1
        time.sleep(interval)


if __name__ == "__main__":
    serve(7777, agent)
    serve(7779, stream)
    print("up", flush=True)
    sys.stdin.read()
