"""What is made as root with sudo belongs to whoever called sudo: results, caches and state, in folders of theirs.

Otherwise the next run without sudo, a `git clean`, or another program that wants `~/.local` fails on folders of root's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from conformance import paths

_ROOT = 0


def give_back(*made: Path) -> None:
    """Hand over `made`, hvconform's state and cache, and what Python compiled of this checkout.

    Nothing happens without sudo, or to what lies in folders that are not the caller's, such as root's own home. The
    folders of nested labs stay root's: their hosts live in them.
    """
    if os.geteuid() != _ROOT or not os.environ.get("SUDO_UID", "").isdigit():
        return
    owner, group = int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1"))
    checkout = Path(__file__).parents[2]
    compiled = (
        folder
        for package in ("conformance", "suites", "drivers", "labs", "reports")
        for folder in (checkout / package).rglob("__pycache__")
    )
    # the lease coordinators are found by stevedore, which keeps what it found
    found = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "python-entrypoints"
    for path in (*made, paths.state_dir(), paths.cache_dir(), found, *compiled):
        above = _roots_above(path.absolute(), owner)
        if above is None:
            continue
        for each in (*above, *_below(path)):
            with suppress(FileNotFoundError):
                if each.lstat().st_uid == _ROOT:
                    os.lchown(each, owner, group)


def _roots_above(path: Path, owner: int) -> list[Path] | None:
    """Folders of root's between a path and the folder of the caller's that it lies in; None if it lies in none."""
    found: list[Path] = []
    for folder in path.parents:
        with suppress(FileNotFoundError):
            uid = folder.stat().st_uid
            if uid != _ROOT:
                return found if uid == owner else None
            found.append(folder)
    return None


def _below(path: Path) -> Iterable[Path]:
    yield path
    labs = paths.state_dir() / "labs"
    for folder, names, files in os.walk(path):
        if Path(folder) == labs:
            names.clear()
        yield from (Path(folder) / name for name in (*names, *files))
