"""What a machine needs for the nested Xen lab, and how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

_COMMANDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "fakeroot": "fakeroot",
    "mkfs.ext4": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "dpkg-source": "dpkg-dev",
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
}
_FILES = {Path("/usr/share/keyrings/debian-archive-keyring.gpg"): "debian-archive-keyring"}
PACKAGES = frozenset({*_COMMANDS.values(), *_FILES.values()})
"""The Debian packages that this kind of lab needs."""
_UNSHARE = "newuidmap"


def missing() -> Sequence[tuple[str, str]]:
    """What is missing here: (what, how to get it)."""
    found = [
        (f"the command {command}", _install(package)) for command, package in _COMMANDS.items() if not _there(command)
    ]
    found += [(f"the file {path}", _install(package)) for path, package in _FILES.items() if not path.exists()]
    if os.geteuid() != 0 and not _there(_UNSHARE):
        found.append((f"the command {_UNSHARE}, to build dom0 without root", _install("uidmap")))
    return found


def _there(command: str) -> bool:
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def _install(package: str) -> str:
    return f"apt-get install --no-install-recommends {package}"
