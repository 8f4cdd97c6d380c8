"""Debian packages the guest is made of: fetched with apt-get into a cache, unpacked without being installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.errors import LabError, MissingRequirement

# program: Debian package; what building every image and booting it needs
TOOLS: dict[str, str] = {
    "gcc": "gcc",
    "strip": "binutils",
    "objcopy": "binutils",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "lz4": "lz4",
    "sfdisk": "fdisk",
    "mkfs.fat": "dosfstools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "syslinux": "syslinux",
    "qemu-img": "qemu-utils",
}
SYSTEM_PACKAGES: tuple[str, ...] = (
    "binutils",
    "dosfstools",
    "fdisk",
    "gcc",
    "libc6-dev",
    "linux-libc-dev",
    "lz4",
    "mtools",
    "qemu-utils",
    "syslinux",
    "syslinux-common",
)
MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
STUB = Path("usr/lib/systemd/boot/efi/linuxx64.efi.stub")
_KERNEL_META = ("linux-image-cloud-amd64", "linux-image-virtual")


@dataclass(frozen=True, slots=True)
class Packages:
    """Package files, sorted by name. The kernel's version is a folder name below lib/modules."""

    files: tuple[Path, ...]


def tool(name: str) -> str:
    """The path of a tool; raises `MissingRequirement` naming its package."""
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    found = shutil.which(name, path=search)
    if found is None:
        package = TOOLS.get(name, name)
        raise MissingRequirement(
            f"the guest image builder needs the program {name!r}, of Debian's package {package}",
            hint=f"sudo apt-get install {' '.join(SYSTEM_PACKAGES)}",
        )
    return found


def require_tools() -> None:
    """Raises `MissingRequirement` for the first tool or file that this machine lacks."""
    for name in TOOLS:
        tool(name)
    for path, package in ((MBR, "syslinux-common"), (Path("/usr/include/linux/input.h"), "linux-libc-dev")):
        if not path.exists():
            raise MissingRequirement(
                f"the guest image builder needs {path}, of Debian's package {package}",
                hint=f"sudo apt-get install {' '.join(SYSTEM_PACKAGES)}",
            )


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, stdin: bytes = b"") -> bytes:
    """Run a tool; returns its output; raises `LabError` with what it said."""
    words = [tool(str(command[0])), *(str(word) for word in command[1:])]
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, "LC_ALL": "C", **(env or {})}, input=stdin, capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()
        raise LabError(f"{command[0]} failed with status {done.returncode} while building an image: {said}")
    return done.stdout


def wanted() -> tuple[str, ...]:
    """The names of the packages that make the guest here, by apt's present lists; raises `LabError`."""
    for meta in _KERNEL_META:
        depends = _apt_cache("depends", "--important", meta)
        kernels = re.findall(r"Depends: (linux-(?:image|modules)-\d\S*)", depends)
        if kernels:
            # on Ubuntu the image has no modules of its own
            modules = re.findall(r"Depends: (linux-modules-\d\S*)", _apt_cache("depends", "--important", kernels[0]))
            return tuple(sorted({*kernels, *modules, "busybox-static", "systemd-boot-efi"}))
    raise LabError(
        f"apt knows no kernel package for the guest; looked for {' and '.join(_KERNEL_META)}",
        hint="sudo apt-get update, on Debian 12 or later or Ubuntu 24.04 or later",
    )


def _apt_cache(*words: str) -> str:
    done = subprocess.run(
        [tool("apt-get").replace("apt-get", "apt-cache"), *words],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else ""


def fetch(names: Sequence[str], into: Path) -> tuple[Path, ...]:
    """Download packages into a folder, beside those it has; returns the newest file of each, sorted by name.

    Raises:
        LabError: apt cannot download.
    """
    into.mkdir(parents=True, exist_ok=True)
    # apt's download sandbox user may not enter the cache folder; as root that is only a warning, so ask for root
    options = ["-q", "-o", "APT::Sandbox::User=root"]
    try:
        run("apt-get", *options, "download", *names, cwd=into)
    except LabError as error:
        raise LabError(
            f"the guest's packages cannot be downloaded into {into}: {error.message}",
            hint="connect to the network and run `sudo apt-get update`; it is needed only for the first build",
        ) from None
    files = []
    for name in names:
        found = sorted(into.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise LabError(f"apt-get downloaded no {name} into {into}", hint="sudo apt-get update")
        files.append(found[-1])
    return tuple(sorted(files))


def unpack(files: Sequence[Path], into: Path) -> None:
    """Unpack packages into a folder."""
    for file in files:
        run("dpkg-deb", "-x", file, into)
