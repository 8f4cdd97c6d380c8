"""The lab's guest images: the test guest for BIOS, UEFI and direct boot, and files that only look like images."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
from pathlib import Path, PurePath
from typing import Any

from conformance.guest import image
from conformance.lab.inventory import Image
from conformance.lab.lab import Say
from conformance.model import MIB, Firmware

_QCOW2_MAGIC = b"QFI\xfb"


def prepare(folder: Path, cache_dir: Path, say: Say, seen_at: PurePath | None = None) -> list[Image]:
    """Put the images into a folder that both hosts see at the same path.

    Args:
        folder: Where they go.
        cache_dir: Where images are built once.
        seen_at: The folder's path on the hosts, if it is another one there.
    """
    seen_at = seen_at or folder
    folder.mkdir(parents=True, exist_ok=True)
    built = image.build(cache_dir, say)
    kernel, bzimage, initrd = (_copy(file, folder) for file in (built.kernel, built.bzimage, built.initrd))
    direct: dict[str, Any] = {"kernel": kernel, "bzimage": bzimage, "initrd": initrd, "cmdline": built.cmdline}
    found = []
    bios = _copy(built.disk("bios", "qcow2"), folder)
    found.append(_image("hvconform", bios, "qcow2", image_id=built.image_id, firmware=Firmware.BIOS, **direct))
    uefi = _copy(built.disk("uefi", "qcow2"), folder)
    found.append(_image("hvconform-uefi", uefi, "qcow2", image_id=built.image_id, firmware=Firmware.UEFI))
    secret = folder / "secret"
    secret.write_bytes(b"a file of the host that no guest may read\n".ljust(4096, b"."))
    found.append(_image("corrupt", _corrupt(folder / "corrupt.qcow2"), "qcow2", size=64 * MIB))
    disguised = _disguised(folder / "raw-looking-like-qcow2.raw", seen_at / secret.name)
    # it is booted from its kernel, so that the guest can show which bytes it was given
    trap = _image("raw-looking-like-qcow2", disguised, "raw", image_id=built.image_id, boot_loader=False, **direct)
    found.append(trap)
    return [_seen(image, seen_at) for image in found]


def _seen(image: Image, folder: PurePath) -> Image:
    paths = {"path": image.path, "kernel": image.kernel, "bzimage": image.bzimage, "initrd": image.initrd}
    return image.model_copy(update={name: path and Path(folder / path.name) for name, path in paths.items()})


def _copy(source: Path, folder: Path) -> Path:
    target = folder / source.name
    if not target.exists() or target.stat().st_mtime_ns != source.stat().st_mtime_ns:
        fresh = target.with_name(target.name + ".new")
        shutil.copy2(source, fresh)
        fresh.rename(target)
    return target


def _image(name: str, path: Path, format: str, *, size: int = 0, **more: Any) -> Image:
    size = size or _virtual_size(path, format)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Image.model_validate(
        {"name": name, "path": path, "format": format, "sha256": sha256, "size_bytes": size, **more}
    )


def _virtual_size(path: Path, format: str) -> int:
    command = ["qemu-img", "info", "-U", "-f", format, "--output=json", str(path)]
    return int(json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["virtual-size"])


def _corrupt(path: Path) -> Path:
    """A qcow2 whose magic is right and whose header is nonsense."""
    path.write_bytes((_QCOW2_MAGIC + b"\xff" * 100).ljust(65536, b"\0"))
    return path


def _disguised(path: Path, backing: PurePath) -> Path:
    """A raw disk that begins like a qcow2 with a backing file: whoever probes the format shows the guest that file.

    The danger is that of CVE-2008-2004: a guest can write such bytes to its own raw disk.
    """
    name = str(backing).encode()
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", _QCOW2_MAGIC, 2, 72, len(name), 16, 4096, 0, 1, 65536, 131072, 1, 0, 0
    ).ljust(72, b"\0")
    path.write_bytes((header + name).ljust(1 * MIB, b"\0"))
    return path
