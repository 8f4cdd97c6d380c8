"""Names on the hosts: everything a VM owns is found from its name alone, even when the VM was made only by half.

A VM's UUID is made from its name (RFC 9562, version 5), and every file of it starts with that UUID. So names may hold
any character, no file name is ever made from one, and `reclaim` needs no record of what was made.
"""

from __future__ import annotations

import re
import uuid
from pathlib import PurePath
from urllib.parse import quote, unquote

from conformance.errors import InvalidRequest

NAMESPACE = uuid.UUID("0d5a1f0e-6f0b-5c1c-9f57-3c8a31f6b4e2")
METADATA_URI = "urn:hvconform:libvirt:vm:1"
PREFIX = "hvc-"

MAX_NAME_BYTES = 180
"""libvirt makes file names of a domain's name and a suffix; a file name holds 255 bytes."""

_SOCKET_NAME_BYTES = 30

_SERIAL = re.compile(r"[A-Za-z0-9_.+-]{1,20}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def vm_uuid(name: str) -> str:
    """The UUID of the VM with this name."""
    return str(uuid.uuid5(NAMESPACE, "vm:" + name))


def volume_id(name: str) -> str:
    """The id of the volume with this name."""
    return str(uuid.uuid5(NAMESPACE, "volume:" + name))


def libvirt_name(name: str) -> str:
    """What libvirt is to call the VM with this name: the same, where it can.

    libvirt puts the first 20 characters into the paths of UNIX sockets, which hold 107 bytes. Twenty characters of
    most scripts do not fit beside ``/var/lib/libvirt/qemu/channel/target``: the domain is defined and cannot start.
    """
    return name if len(name[:20].encode()) <= _SOCKET_NAME_BYTES else f"{PREFIX}{vm_uuid(name)}"


def vm_prefix(vm: str) -> str:
    """How the names of all files of a VM start."""
    return f"{PREFIX}{vm}."


def disk_file(vm: str, serial: str) -> str:
    """The file of a disk. Its serial is the second part between dots, here and in `volume_file`: where a hypervisor has
    no serials, a guest can read it from the file's name (docs/guest-image.md)."""
    return f"{vm_prefix(vm)}{_escape(serial)}.qcow2"


def console_file(vm: str) -> str:
    return f"{vm_prefix(vm)}console.log"


def nvram_file(vm: str) -> str:
    return f"{vm_prefix(vm)}nvram.fd"


def volume_prefix(volume: str) -> str:
    return f"{PREFIX}vol-{volume}."


def volume_file(name: str, serial: str) -> str:
    """The file of a volume. It holds the name and the serial, so that no record besides the file is needed."""
    return f"{volume_prefix(volume_id(name))}{_escape(serial)}.{_escape(name)}.qcow2"


def parse_volume_file(file: str) -> tuple[str, str, str] | None:
    """(id, serial, name) of a volume from its file's name; None if the file is not a volume of ours."""
    parts = PurePath(file).name.split(".")
    if len(parts) != 4 or parts[3] != "qcow2" or not parts[0].startswith(f"{PREFIX}vol-"):
        return None
    return parts[0].removeprefix(f"{PREFIX}vol-"), unquote(parts[1]), unquote(parts[2])


def _escape(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")


def check_name(name: str, operation: str) -> None:
    """Refuse a VM name that libvirt cannot hold; everything else works. Raises `InvalidRequest`."""
    if not name.strip():
        raise InvalidRequest("the name is empty", operation=operation, vm=name)
    if "/" in name or any(not char.isprintable() and char != "\u200d" for char in name):
        # '/' and newlines are refused by libvirt; other control characters cannot be written in XML
        raise InvalidRequest("the name holds a slash or a control character", operation=operation, vm=ascii(name))
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("the name is not Unicode text", operation=operation, vm=ascii(name)) from None
    if length > MAX_NAME_BYTES or name in (".", ".."):
        raise InvalidRequest(f"the name has {length} bytes of at most {MAX_NAME_BYTES}", operation=operation, vm=name)


def check_volume_name(name: str, operation: str) -> None:
    """Refuse a volume name whose escaped form does not fit a file name. Raises `InvalidRequest`."""
    if not name or len(_escape(name)) > MAX_NAME_BYTES - 40:
        raise InvalidRequest("the volume's name is empty or too long", operation=operation, vm=name)


def check_serial(serial: str, operation: str) -> None:
    """Raises `InvalidRequest` for a serial that virtio-blk (20 bytes) or libvirt's quoting cannot carry."""
    if not _SERIAL.fullmatch(serial):
        raise InvalidRequest(f"serial {serial!r} is not 1 to 20 of A-Z a-z 0-9 _ . + -", operation=operation)


def check_mac(mac: str, operation: str) -> None:
    """Raises `InvalidRequest` for what is not a lower-case unicast MAC."""
    if not _MAC.fullmatch(mac) or int(mac[1], 16) & 1:
        raise InvalidRequest(f"{mac!r} is not a lower-case unicast MAC address", operation=operation)
