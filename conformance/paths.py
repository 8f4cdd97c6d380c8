"""Where hvconform keeps things on this machine, by the XDG base directory rules."""

from __future__ import annotations

import os
from pathlib import Path


def state_dir() -> Path:
    """Ledgers, leases and nested labs: ``$HVCONFORM_STATE``, else ``$XDG_STATE_HOME/hvconform``."""
    return _dir("HVCONFORM_STATE", "XDG_STATE_HOME", ".local/state")


def cache_dir() -> Path:
    """Things that can be made again, such as guest images: ``$HVCONFORM_CACHE``, else ``$XDG_CACHE_HOME/hvconform``."""
    return _dir("HVCONFORM_CACHE", "XDG_CACHE_HOME", ".cache")


def lab_dir(name: str, cell: int) -> Path:
    """The folder of one cell of a nested lab."""
    return state_dir() / "labs" / f"{name}-{cell}"


def _dir(own: str, xdg: str, default: str) -> Path:
    if value := os.environ.get(own):
        return Path(value)
    if value := os.environ.get(xdg):
        return Path(value) / "hvconform"
    return Path.home() / default / "hvconform"
