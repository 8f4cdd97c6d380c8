"""The peer's one interface: its addresses, sockets tied to it, connections, pings, neighbours and leases.

Part of the peer process: standard library only, Python 3.10 and later.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import json
import os
import select
import socket
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_SIOCGIFADDR, _SIOCGIFHWADDR = 0x8915, 0x8927
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _IPV6_DONTFRAG = 10, 23, 62
_PMTUDISC_DONT, _PMTUDISC_PROBE = 0, 3
# ENETUNREACH: a bridge has no link-local address before the first guest is plugged into it
_UNREACHABLE = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EMSGSIZE)


class Silent(Exception):
    """The guest did not answer."""


class Interface:
    """One network interface, by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.index = socket.if_nametoindex(name)
        # not from /sys: in a network namespace entered by nsenter, /sys still shows the interfaces outside
        self.mac = ":".join(f"{byte:02x}" for byte in self._ioctl(_SIOCGIFHWADDR)[18:24])

    def ipv4(self) -> str:
        """The first IPv4 address, or empty."""
        try:
            return socket.inet_ntoa(self._ioctl(_SIOCGIFADDR)[20:24])
        except OSError:
            return ""

    def ipv6(self) -> str:
        """A global address if there is one, else the link-local one, else empty."""
        found = []
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, _, _, scope, _, name = line.split()
            if name == self.name:
                found.append((int(scope, 16), str(ipaddress.IPv6Address(bytes.fromhex(digits)))))
        return min(found)[1] if found else ""

    def tie(self, endpoint: socket.socket) -> None:
        """Let a socket use this interface and no other: an answer by another way would prove nothing."""
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.name.encode() + b"\0")

    def hasten(self) -> None:
        """Look for neighbours every 100 ms, not every second, so that a guest is reached as soon as it is up.

        The peer's namespace belongs to the lab, so this changes nothing of anybody else's.
        """
        for family in ("ipv4", "ipv6"):
            with suppress(OSError):
                Path(f"/proc/sys/net/{family}/neigh/{self.name}/retrans_time_ms").write_text("100")

    def target(self, address: str, port: int) -> tuple[int, Any]:
        """Family and socket address; a link-local address is on this interface."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        if ip.version == 4:
            return socket.AF_INET, (str(ip), port)
        return socket.AF_INET6, (str(ip), port, 0, self.index if ip.is_link_local else 0)

    def connect(self, address: str, port: int, deadline: float) -> socket.socket:
        """A TCP connection; `deadline` in monotonic seconds.

        A lost SYN is sent again after a second, then two, then four. A guest that is coming up would be seen that much
        too late, so attempts are given up early and made again.
        """
        family, target = self.target(address, port)
        patience = 0.25
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Silent(f"{address} port {port} did not accept a connection")
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                self.tie(connection)
                connection.settimeout(min(patience, left))
                connection.connect(target)
            except TimeoutError:
                connection.close()
                patience *= 2
            except OSError as error:
                connection.close()
                if error.errno in _UNREACHABLE or isinstance(error, ConnectionError):
                    raise Silent(f"{address} port {port}: {error.strerror}") from None
                raise
            else:
                return connection

    def ping(self, address: str, payload_bytes: int, dont_fragment: bool, timeout_s: float) -> bool:
        """One ICMP echo; whether it was answered with the same payload."""
        family, target = self.target(address, 0)
        # an identifier and a payload of its own, so that no other ping's answer is taken for this one's
        token = os.urandom(4)
        payload = (token + bytes(i & 0xFF for i in range(payload_bytes)))[: max(0, payload_bytes)]
        identifier, sequence = struct.unpack("!HH", os.urandom(4))
        rest = struct.pack("!HH", identifier, sequence) + payload
        discovery = _PMTUDISC_PROBE if dont_fragment else _PMTUDISC_DONT  # PROBE: never trust a remembered path MTU
        if family == socket.AF_INET:
            protocol, request, answer = socket.IPPROTO_ICMP, 8, 0
            header = struct.pack("!BBH", request, 0, _checksum(struct.pack("!BBH", request, 0, 0) + rest))
            options = [(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discovery)]
        else:
            protocol, request, answer = socket.IPPROTO_ICMPV6, 128, 129
            header = struct.pack("!BBH", request, 0, 0)  # the kernel fills the checksum in
            options = [
                (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, discovery),
                (socket.IPPROTO_IPV6, _IPV6_DONTFRAG, int(dont_fragment)),
            ]
        deadline = time.monotonic() + timeout_s
        with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
            self.tie(raw)
            for option in options:
                raw.setsockopt(*option)
            try:
                raw.sendto(header + rest, target)
                while (left := deadline - time.monotonic()) > 0 and select.select([raw], [], [], left)[0]:
                    packet, source = raw.recvfrom(65535)
                    message = packet[(packet[0] & 15) * 4 :] if family == socket.AF_INET else packet
                    if message[:1] == bytes([answer]) and message[4:] == rest and _same(source[0], target[0]):
                        return True
            except OSError as error:
                if error.errno not in _UNREACHABLE:
                    raise
        return False

    def neighbours(self) -> list[dict[str, str]]:
        """The kernel's neighbour table of this interface: address, MAC (empty while unresolved) and state."""
        command = ["ip", "-j", "neighbour", "show", "dev", self.name]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return [
            {"address": entry["dst"], "mac": entry.get("lladdr", "").lower(), "state": "/".join(entry.get("state", []))}
            for entry in json.loads(shown or "[]")
        ]

    def _ioctl(self, request: int) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            return fcntl.ioctl(any_socket.fileno(), request, struct.pack("256s", self.name.encode()))


def lease(path: str, mac: str) -> str | None:
    """The IPv4 address that dnsmasq's lease file gives to a MAC; None when there is no lease or it has run out."""
    found = None
    for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
        fields = line.split()
        # expiry (0: never), MAC, address, name, client id; the DHCPv6 half of the file has other things in these places
        if len(fields) >= 4 and fields[1].lower() == mac.lower() and fields[0].isdigit() and "." in fields[2]:
            expiry = int(fields[0])
            found = fields[2] if expiry == 0 or expiry > time.time() else None
    return found


def _same(one: str, other: str) -> bool:
    return ipaddress.ip_address(one.partition("%")[0]) == ipaddress.ip_address(other.partition("%")[0])


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
