"""Where the Debian packages of the lab's hosts come from, and a cache folder that is filled once, by content."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from conformance.errors import MissingRequirement

SUITE = "bookworm"
MIRROR = "HVCONFORM_DEBIAN_MIRROR"
"""Environment variable with the URI of a mirror of Debian, for machines whose apt has none, such as Ubuntu's."""

DATA = Path(__file__).with_name("dom0")
"""What dom0 is made of besides packages."""


@cache
def sources() -> tuple[str, ...]:
    """Repositories of Debian 12, as "URI RELEASE COMPONENT": this machine's own, or those beside its own if it is of
    another release of Debian, or those of the mirror that is named.

    Raises:
        MissingRequirement: There are none.
    """
    if mirror := os.environ.get(MIRROR):
        return (f"{mirror} {SUITE} main", f"{mirror} {SUITE}-updates main")
    words = ["--format", "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    listing = subprocess.run(["apt-get", "indextargets", *words], capture_output=True, text=True, check=False).stdout
    lines = [line.split() for line in listing.splitlines()]
    main = [(line[1], *line[2].partition("-")) for line in lines if line[::3] == ["Debian", "main"]]
    has_suite = any(release == SUITE for _, release, _, _ in main)
    own = [
        f"{uri} {SUITE}{dash}{pocket} main"
        for uri, release, dash, pocket in main
        if release == SUITE or (not has_suite and "backports" not in pocket)
    ]
    if not own:
        raise MissingRequirement(
            f"apt knows no repository of Debian 12 ({SUITE}), which the hosts of the Xen lab are made of",
            hint=f"apt-get update, or name a mirror: {MIRROR}=URI, of the folder that has dists/{SUITE} in it",
        )
    return tuple(dict.fromkeys(own))


def listed(name: str) -> list[str]:
    """The lines of a list in `DATA`, without comments."""
    return [line for line in (DATA / name).read_text().splitlines() if line and not line.startswith("#")]


def digest(parts: Iterable[bytes | str | Path]) -> str:
    """A name for what is made of these: texts, bytes, and files by their content (and mode, if they are scripts)."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            data = part.read_bytes() + (b"x" if part.stat().st_mode & 0o100 else b"-")
        else:
            data = part if isinstance(part, bytes) else part.encode()
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:16]


def cached(folder: Path, make: Callable[[Path, Path], None]) -> Path:
    """A folder that is there whole or not at all.

    Args:
        folder: Where it is, or goes.
        make: Given an empty folder to fill, and one for scratch that is removed.
    """
    if (folder / "complete").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as scratch:
        fresh, rest = Path(scratch) / "out", Path(scratch) / "scratch"
        fresh.mkdir()
        rest.mkdir()
        make(fresh, rest)
        (fresh / "complete").touch()
        try:
            fresh.rename(folder)
        except OSError:  # another process was faster
            if not (folder / "complete").exists():
                raise
    return folder
