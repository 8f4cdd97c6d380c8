"""Where the Debian packages of the lab's hosts come from, and a cache folder that is filled once, by content."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

SUITE = "bookworm"
_DEBIAN = (
    f"http://deb.debian.org/debian {SUITE} main",
    f"http://deb.debian.org/debian {SUITE}-updates main",
    f"http://deb.debian.org/debian-security {SUITE}-security main",
)
DATA = Path(__file__).with_name("dom0")
"""What dom0 is made of besides packages."""


@cache
def sources() -> tuple[str, ...]:
    """Repositories of Debian 12, as "URI RELEASE COMPONENT": this machine's own ones, else Debian's."""
    words = ["--format", "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    listing = subprocess.run(["apt-get", "indextargets", *words], capture_output=True, text=True, check=False).stdout
    own = [
        line.removeprefix("Debian ")
        for line in listing.splitlines()
        if line.startswith("Debian ") and line.split()[2].split("-")[0] == SUITE and line.endswith(" main")
    ]
    return tuple(dict.fromkeys(own)) or _DEBIAN


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
