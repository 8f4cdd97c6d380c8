"""The hypervisor, rebuilt from Debian's source with shadow paging: without it Xen migrates no PV guest live.

Debian's own binary says `Failed to enable logdirty: 95,22` there. Nothing else is changed. Because it is a rebuild it
says so: its version ends in `-hvconform`, which `xl info` shows, and the lab's evidence note repeats it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from conformance.errors import LabError
from conformance.guest.packages import run
from conformance.lab.lab import Say
from labs.xen.debian import cached, digest, sources

_CONFIG = "CONFIG_SHADOW_PAGING=y\n"
_VENDOR = "-hvconform"


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """A built hypervisor: `file` is what QEMU boots (multiboot ELF), `source` the version of Debian's source."""

    file: Path
    source: str

    @property
    def note(self) -> str:
        """For a lab's evidence note."""
        return f"Xen rebuilt from Debian's source {self.source} with CONFIG_SHADOW_PAGING"


def build(cache: Path, say: Say) -> Hypervisor:
    """The hypervisor, built at most once from the same sources.

    Raises:
        MissingRequirement: A tool is missing.
        LabError: The source cannot be downloaded, or does not build.
    """
    key = digest([Path(__file__), *sources()])

    def make(out: Path, scratch: Path) -> None:
        say("building Xen from Debian's source with shadow paging (about two minutes of CPU, once)")
        source = _fetch(scratch)
        tree = scratch / "tree"
        run("dpkg-source", "-q", "--no-check", "-x", next(scratch.glob("src/*.dsc")), tree)
        (tree / "xen" / ".config").write_text((tree / "debian" / "xen-kconfig").read_text() + _CONFIG)
        words = [
            "-s", "-C", str(tree / "xen"), f"XEN_VENDORVERSION={_VENDOR}", "XEN_WHOAMI=hvconform",
            "XEN_DOMAIN=hvconform.test", "XEN_BUILD_HOST=rebuild",
            "XEN_BUILD_DATE=2000-01-01", "XEN_BUILD_TIME=00:00:00",
            f"EXTRA_CFLAGS_XEN_CORE=-ffile-prefix-map={tree}=. -fdebug-prefix-map={tree}=.",
        ]  # fmt: skip
        run("make", *words, "olddefconfig")
        if _CONFIG not in (tree / "xen" / ".config").read_text():
            raise LabError(f"Debian's Xen {source} cannot be configured with shadow paging")
        run("make", f"-j{os.cpu_count() or 1}", *words, "build")
        (tree / "xen" / "xen").rename(out / "xen")
        (out / "source").write_text(source)

    folder = cached(cache / "hypervisor" / key, make)
    return Hypervisor(folder / "xen", (folder / "source").read_text())


def _fetch(scratch: Path) -> str:
    """Download the newest source that can be had to scratch/src; returns its version."""
    lists = scratch / "sources.list"
    lists.write_text("".join(f"deb-src {line}\n" for line in sources()))
    (scratch / "src").mkdir()
    for name in ("lists/partial", "cache/archives/partial"):
        (scratch / "apt" / name).mkdir(parents=True)
    options = [
        "-q", "-o", "APT::Sandbox::User=root", "-o", f"Dir::Etc::sourcelist={lists}", "-o", "Dir::Etc::sourceparts=-",
        "-o", f"Dir::State::lists={scratch / 'apt' / 'lists'}", "-o", f"Dir::Cache={scratch / 'apt' / 'cache'}",
    ]  # fmt: skip
    run("apt-get", *options, "update")
    known: list[str] = re.findall(
        r"^Version: (4\.17\S*)$", run("apt-cache", *options, "showsrc", "xen").decode(), re.MULTILINE
    )
    trouble = "none is known"
    for version in sorted(set(known), key=_order, reverse=True):
        try:
            run("apt-get", *options, "--download-only", "source", f"xen={version}", cwd=scratch / "src")
        except LabError as error:  # mirrors drop the sources of versions that were replaced
            trouble = error.message
        else:
            return version
    raise LabError(
        f"Debian's source of Xen 4.17 cannot be downloaded: {trouble}",
        hint="connect to the network; it is needed only for the first build",
    )


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", re.sub(r"-g[0-9a-f]+", "", version))]
