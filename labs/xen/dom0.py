"""dom0's root file system, kernel and initial RAM disk.

The lab's own files are in the RAM disk only, which lays them over the root at every cold boot: when they change, the
root need not be made again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from conformance.guest.cpio import Archive
from conformance.lab.lab import Say
from labs.xen import system
from labs.xen.debian import DATA, cached, digest, listed, sources


@dataclass(frozen=True, slots=True)
class Dom0:
    """A built dom0; `id` names its content."""

    folder: Path
    id: str

    @property
    def root(self) -> Path:
        """The root file system, raw and sparse."""
        return self.folder / "root.img"

    @property
    def kernel(self) -> Path:
        """The kernel, as an uncompressed ELF file: Xen takes seconds to uncompress one where it is emulated."""
        return self.folder / "vmlinux"

    @property
    def packages(self) -> dict[str, str]:
        """Name and version of every package."""
        lines = (self.folder / "packages").read_text().splitlines()
        return {name.split(":")[0]: version for name, version in (line.split("\t") for line in lines)}

    def initrd(self, into: Path, secrets: dict[str, bytes]) -> None:
        """Write the initial RAM disk with the lab's own files and these: path within dom0 to content."""
        into.touch(mode=0o600)
        into.write_bytes((self.folder / "initrd").read_bytes() + _files(secrets))


def build(cache: Path, say: Say) -> Dom0:
    """dom0, built at most once from the same inputs.

    Raises:
        MissingRequirement: A tool is missing.
        LabError: Packages cannot be downloaded, or a step failed.
    """
    own = sorted(path for path in DATA.rglob("*") if path.is_file())
    key = digest([Path(__file__), *sources(), *(str(path.relative_to(DATA)) for path in own), *own])

    def make(out: Path, _: Path) -> None:
        made = system.build(cache, say)
        for name in ("root.img", "packages", "vmlinux"):
            os.link(made / name, out / name)
        (out / "initrd").write_bytes(_initrd(made))

    return Dom0(cached(cache / "dom0" / key, make), key)


def _initrd(made: Path) -> bytes:
    archive = Archive()
    for folder in ("bin", "dev", "modules", "proc", "sys", "target"):
        archive.folder(folder)
    archive.device("dev/console", 5, 1)
    archive.file("init", (DATA / "init").read_bytes(), 0o755)
    archive.file("bin/busybox", (made / "busybox").read_bytes(), 0o755)
    for path in sorted((made / "boot").iterdir()):
        archive.file(f"modules/{path.name}", path.read_bytes())
    base = DATA / "root"
    own = {str(path.relative_to(base)): path.read_bytes() for path in sorted(base.rglob("*")) if path.is_file()}
    own["hvconform/modules"] = "".join(f"{name}\n" for name in listed("modules.txt")).encode()
    return archive.build() + _files(own)


def _files(contents: dict[str, bytes]) -> bytes:
    """An archive of files that go over dom0's root; an initial RAM disk may be several archives in a row."""
    archive = Archive()
    archive.folder("over")
    known = {"over"}
    for name, data in contents.items():
        path = Path("over") / name
        for folder in reversed(path.parents[:-1]):
            if str(folder) not in known:
                known.add(str(folder))
                archive.folder(str(folder))
        private = name.startswith(("etc/ssh/ssh_host", "root/"))
        archive.file(str(path), data, 0o755 if data.startswith(b"#!") else 0o600 if private else 0o644)
    return archive.build()
