"""Where hvconform keeps things on this machine, by the XDG base directory rules."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from conformance.errors import LabError

TIME_IN_NAME = "%Y%m%d-%H%M%S"


def state_dir() -> Path:
    """Ledgers, leases and nested labs: ``$HVCONFORM_STATE``, else ``$XDG_STATE_HOME/hvconform``."""
    return _dir("HVCONFORM_STATE", "XDG_STATE_HOME", ".local/state")


def cache_dir() -> Path:
    """Things that can be made again, such as guest images: ``$HVCONFORM_CACHE``, else ``$XDG_CACHE_HOME/hvconform``."""
    return _dir("HVCONFORM_CACHE", "XDG_CACHE_HOME", ".cache")


def lab_dir(name: str, cell: int) -> Path:
    """The folder of one cell of a nested lab."""
    return state_dir() / "labs" / f"{name}-{cell}"


def make_run_folder(parent: Path, name: str = "") -> Path:
    """Make a folder for one run's results that nothing else has: runs that start in the same second get one each.

    Args:
        name: What it is called, by default the time; ``-2``, ``-3`` and so on come behind it when that is taken.

    Raises:
        LabError: It cannot be made.
    """
    name = name or time.strftime(TIME_IN_NAME)
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise LabError(f"{folder} cannot be made: {error.strerror}", hint="give another --out") from None
        return folder
    raise AssertionError("the numbers do not end")


def _dir(own: str, xdg: str, default: str) -> Path:
    if value := os.environ.get(own):
        return Path(value)
    if value := os.environ.get(xdg):
        return Path(value) / "hvconform"
    return Path.home() / default / "hvconform"
