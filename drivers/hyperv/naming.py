"""Names on the hosts: everything a VM owns lies in one folder that is found from its name alone, even when half-made.

A VM's folder is made of a UUID that follows from its name (RFC 9562, version 5), so names may hold any character, and
no path and no ``-Name`` is ever made from one: the cmdlets take names for wildcards. The VM's own id is Hyper-V's.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import PureWindowsPath
from urllib.parse import quote, unquote

from conformance.errors import InvalidRequest

NAMESPACE = uuid.UUID("7f1d9a54-3f0b-5a6e-8a51-0c2f6d5b9e11")
PREFIX = "hvc-"
MARK = "hvconform-hyperv:1 "
"""How the first line of the Notes of a VM of ours begins; a JSON object follows."""

MAX_NAME = 100
"""The longest name that Hyper-V Manager and the module take for a VM."""

ROOT = "root"
"""Serial of the root disk."""

_SERIAL = re.compile(r"[A-Za-z0-9_.+-]{1,16}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LAYER = re.compile(r"_[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")


def vm_folder(name: str) -> str:
    """The name of the folder of the VM with this name, and what the VM is called until it is complete."""
    return f"{PREFIX}{uuid.uuid5(NAMESPACE, 'vm:' + name)}"


def volume_id(name: str) -> str:
    """The id of the volume with this name."""
    return str(uuid.uuid5(NAMESPACE, "volume:" + name))


def volume_prefix(volume: str) -> str:
    return f"{PREFIX}vol-{volume}."


def volume_file(name: str, serial: str) -> str:
    """The file of a volume. It holds the name and the serial, so that no record besides the file is needed."""
    return f"{volume_prefix(volume_id(name))}{_escape(serial)}.{_escape(name)}.vhdx"


def parse_volume_file(path: str) -> tuple[str, str, str] | None:
    """(id, serial, name) of a volume from its file's path, or from that of a checkpoint's layer on it."""
    parts = stem(path).split(".")
    if len(parts) != 3 or not parts[0].startswith(f"{PREFIX}vol-"):
        return None
    return parts[0].removeprefix(f"{PREFIX}vol-"), unquote(parts[1]), unquote(parts[2])


def stem(path: str) -> str:
    """A disk file's name without suffix, and without what Hyper-V adds to it for a checkpoint's layer."""
    return _LAYER.sub("", PureWindowsPath(path).stem)


def serial_of(path: str) -> str:
    """The serial of a disk of ours by its file."""
    volume = parse_volume_file(path)
    return volume[1] if volume else stem(path)


def is_layer(path: str) -> bool:
    """Whether a file is a checkpoint's layer, which merges away with it."""
    return PureWindowsPath(path).suffix.lower() in (".avhdx", ".avhd")


def same_path(one: str, other: str) -> bool:
    """Windows does not mind the case of a path (a driver that did lost VMs: LP#1878579)."""
    return one.replace("/", "\\").casefold() == other.replace("/", "\\").casefold()


def disk_id(serial: str) -> str:
    """The VHDX identifier that shows `serial` to a guest: Hyper-V has no other serial than these 16 bytes.

    A guest finds them in the vital product data of its SCSI disk (page 0x83, vendor MSFT). Padded with NUL.
    """
    return str(uuid.UUID(bytes_le=serial.encode("ascii").ljust(16, b"\0")))


def host_mac(mac: str) -> str:
    """A MAC as Hyper-V writes it."""
    return mac.replace(":", "").upper()


def our_mac(mac: str) -> str:
    """A MAC as the harness writes it."""
    text = re.sub(r"[^0-9A-Fa-f]", "", mac).lower()
    return ":".join(text[at : at + 2] for at in range(0, 12, 2))


def notes(target: str, name: str) -> str:
    """What the Notes of a VM say: whose it is, and its name, which Rename-VM by hand would not change."""
    return MARK + json.dumps({"target": target, "name": name})


def parse_notes(text: object) -> tuple[str, str] | None:
    """(target, name) from a VM's Notes; None for a VM that is not ours."""
    first = str(text or "").splitlines()[:1]
    if not first or not first[0].startswith(MARK):
        return None
    try:
        record = json.loads(first[0].removeprefix(MARK))
        return str(record["target"]), str(record["name"])
    except (ValueError, KeyError, TypeError):
        return None


def check_name(name: str, operation: str) -> None:
    """Raises `InvalidRequest` for a name that Hyper-V cannot hold."""
    if not name.strip():
        raise InvalidRequest("the name is empty", operation=operation, vm=name)
    if any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in name):
        raise InvalidRequest("the name holds a control character or half of one", operation=operation, vm=ascii(name))
    if len(name.encode("utf-16-le")) // 2 > MAX_NAME:
        raise InvalidRequest(f"the name has more than {MAX_NAME} characters", operation=operation, vm=name)


def check_volume_name(name: str, operation: str) -> None:
    """Raises `InvalidRequest` for a name whose escaped form does not fit a file name."""
    if not name or len(_escape(name)) > 140:
        raise InvalidRequest("the volume's name is empty or too long", operation=operation, vm=name)


def check_serial(serial: str, operation: str) -> None:
    """Raises `InvalidRequest` for a serial that does not fit a disk's identifier."""
    if not _SERIAL.fullmatch(serial):
        raise InvalidRequest(f"serial {serial!r} is not 1 to 16 of A-Z a-z 0-9 _ . + -", operation=operation)


def check_mac(mac: str, operation: str) -> None:
    """Raises `InvalidRequest` for what is not a lower-case unicast MAC."""
    if not _MAC.fullmatch(mac) or int(mac[1], 16) & 1:
        raise InvalidRequest(f"{mac!r} is not a lower-case unicast MAC address", operation=operation)


def _escape(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")
