"""Builds the test guest's kernel, initrd and disks from Debian packages, cached by the content of all that goes in."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from conformance.errors import LabError
from conformance.guest import boot, layout, packages
from conformance.guest.cpio import Archive
from conformance.guest.modules import GROUPS, Modules

Firmware = Literal["bios", "uefi"]
Format = Literal["raw", "qcow2", "vhdx", "vmdk"]
FORMATS: tuple[Format, ...] = ("raw", "qcow2", "vhdx", "vmdk")

AGENT = Path(__file__).with_name("agent")
# panic=0: a crashed guest stays down; memhp_default_state: hot-plugged memory is usable and can be unplugged again;
# swiotlb=noforce: with room for hot-plugged memory the kernel would else set 64 MiB aside; hvc0: Xen's console, and the
# only one of a PV or PVH guest; the last one that is there becomes /dev/console
CMDLINE = "console=hvc0 console=ttyS0 loglevel=4 panic=0 memhp_default_state=online_movable swiotlb=noforce"
Say = Callable[[str], None]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class GuestImages:
    """One build of the test guest.

    Args:
        folder: Where it lies.
        image_id: Hash of all that went in; every disk and the initrd carry it, and the agent tells it.
    """

    folder: Path
    image_id: str
    cmdline: str = CMDLINE
    size_bytes: int = field(default=layout.DISK_SIZE)

    @property
    def kernel(self) -> Path:
        """Uncompressed kernel: QEMU and Xen enter it by PVH, with no decompressor to run."""
        return self.folder / "vmlinux"

    @property
    def bzimage(self) -> Path:
        """The kernel as the package has it, for loaders that know no PVH."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @cached_property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of every file built so far, by name."""
        return {path.name: _sha256(path) for path in sorted(self.folder.iterdir()) if path.is_file()}

    def disk(self, firmware: Firmware = "bios", disk_format: Format = "qcow2") -> Path:
        """The boot disk, converted when first asked for. Copy it or put an overlay on it; never write to it."""
        raw = self.folder / f"hvconform-{firmware}.raw"
        path = self.folder / f"hvconform-{firmware}.{disk_format}"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=".convert-") as scratch:
                new = Path(scratch) / path.name
                layout.convert(raw, new, disk_format)
                new.chmod(0o444)
                new.replace(path)
        return path

    def disk_sha256(self, firmware: Firmware = "bios", disk_format: Format = "qcow2") -> str:
        """SHA-256 of the disk's file."""
        return _sha256(self.disk(firmware, disk_format))


def build(cache_dir: Path, say: Say = lambda _: None) -> GuestImages:
    """The test guest, built at most once for the same inputs.

    Args:
        cache_dir: Packages and builds are kept in its folder ``guest``; see `conformance.paths.cache_dir`.
        say: Told what takes time.

    Raises:
        MissingRequirement: A tool is missing; the message names its package.
        LabError: The packages cannot be downloaded, or a step of the build failed.
    """
    folder = cache_dir / "guest"
    packages.require_tools()
    names = packages.wanted()
    debs = _packages(folder / "packages", names, say)
    image_id = _content_hash(debs)
    done = folder / image_id
    if not (done / "complete").exists():
        say(f"building the test guest {image_id} (about ten seconds, once)")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
            new = Path(scratch) / "out"
            new.mkdir()
            _build(new, Path(scratch), debs, image_id)
            for path in new.iterdir():
                path.chmod(0o444)
            try:
                new.rename(done)
            except OSError:  # another process was faster; its build is the same, byte for byte
                if not (done / "complete").exists():
                    raise
    return GuestImages(done, image_id)


def _packages(folder: Path, names: Sequence[str], say: Say) -> tuple[Path, ...]:
    """The cached files, or freshly downloaded ones: the list of one download is kept, so no network is needed later."""
    index = folder / "index.json"
    try:
        known = json.loads(index.read_text())
        files = tuple(folder / name for name in known[" ".join(names)])
        if all(path.exists() for path in files):
            return files
    except (OSError, ValueError, KeyError):
        pass  # none yet, or from another version: download
    say(f"downloading {', '.join(names)}")
    files = packages.fetch(names, folder)
    new = index.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps({" ".join(names): [path.name for path in files]}))
    new.replace(index)
    return files


def _content_hash(debs: Sequence[Path]) -> str:
    """Of the packages, the agent's source, the builder itself, and the tools that leave their mark in the result."""
    total = hashlib.sha256()
    sources = [*sorted(AGENT.glob("*.[ch]")), *sorted(Path(__file__).parent.glob("*.py"))]
    for path in [*debs, *sources, packages.MBR]:
        total.update(f"{path.name} {_sha256(path)}\n".encode())
    for command in (("gcc", "--version"), ("syslinux", "--version"), ("qemu-img", "--version")):
        total.update(_version(*command))
    return total.hexdigest()[:16]


def _version(*command: str) -> bytes:
    try:
        return packages.run(*command)
    except LabError as error:  # syslinux prints its version and fails
        return error.message.encode()


def _build(out: Path, scratch: Path, debs: Sequence[Path], image_id: str) -> None:
    root = scratch / "root"
    packages.unpack(debs, root)
    modules = Modules(root)
    bzimage = (root / "boot" / f"vmlinuz-{modules.version}").read_bytes()
    initrd = _initrd(root, modules, _agent(scratch), image_id)
    compressed = boot.compress(initrd)
    (out / "vmlinuz").write_bytes(bzimage)
    (out / "vmlinux").write_bytes(boot.uncompress(bzimage))
    (out / "initrd").write_bytes(initrd)
    layout.bios_disk(
        out / "hvconform-bios.raw", scratch, kernel=bzimage, initrd=compressed, cmdline=CMDLINE, image_id=image_id
    )
    unified = boot.unified(scratch, root / packages.STUB, bzimage, compressed, CMDLINE)
    layout.uefi_disk(out / "hvconform-uefi.raw", scratch, unified_kernel=unified, image_id=image_id)
    (out / "complete").write_text(image_id + "\n")


def _agent(scratch: Path) -> bytes:
    """The agent's program."""
    program = scratch / "agent"
    packages.run(
        "gcc", "-std=gnu17", "-Os", "-static", "-pthread", "-Wl,--build-id=none", "-s",
        "-o", program, *(path.name for path in sorted(AGENT.glob("*.c"))), cwd=AGENT,
    )  # fmt: skip
    return program.read_bytes()


def _initrd(root: Path, modules: Modules, agent: bytes, image_id: str) -> bytes:
    archive = Archive()
    for folder in ("bin", "dev", "etc", "lib", "lib/modules", "proc", "sbin", "sys"):
        archive.folder(folder)
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3)
    archive.file("init", agent, 0o755)
    for name in ("bin/dhcp-event", "sbin/poweroff", "sbin/reboot"):
        archive.link(name, "/init")
    busybox = next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    archive.file("etc/image-id", image_id.encode() + b"\n")
    orders = {group: modules.order(group) for group in GROUPS}
    lines = [f"{group} {name}.ko\n" for group, order in orders.items() for name in order]
    archive.file("lib/modules.list", "".join(lines).encode())
    for name in sorted({name for order in orders.values() for name in order}):
        archive.file(f"lib/modules/{name}.ko", modules.content(name))
    return archive.build()
