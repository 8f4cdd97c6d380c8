"""A cell: what it is called; its folder and lab file: held against other runners, emptied, written whole."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from conformance.errors import LabError, MissingRequirement
from conformance.lab.inventory import LabInventory


@dataclass(frozen=True)
class Cell:
    """One cell of a nested lab.

    Args:
        number: From 0.
        dir: The cell's folder; everything that is on this machine's file systems is in it.
    """

    kind: ClassVar[str]

    number: int
    dir: Path

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"

    @property
    def mark(self) -> str:
        """What the command lines of this cell's processes have in them, and no others."""
        return f"hvconform-{self.name}-{hashlib.sha256(str(self.dir).encode()).hexdigest()[:12]}"

    @property
    def inventory_file(self) -> Path:
        return self.dir / "lab.toml"


def require(lacking: Sequence[tuple[str, str]]) -> None:
    """Raise `MissingRequirement` for what a machine lacks: (what, how to get it)."""
    if lacking:
        raise MissingRequirement(
            "this machine lacks " + ", ".join(what for what, _ in lacking),
            hint="; ".join(dict.fromkeys(how for _, how in lacking)),
        )


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the cell against another runner; a folder that is empty at the end goes."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise LabError(
                f"{folder} is being brought up or down by another process", hint="wait for it, or use another cell"
            ) from None
        # whoever held it before may have removed the folder
        if folder.exists() and os.fstat(handle).st_ino == folder.stat().st_ino:
            break
        os.close(handle)
    try:
        yield
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()
        os.close(handle)


def write(inventory: LabInventory, path: Path) -> None:
    """Write a lab file, last and whole: a cell without it is known to be half built."""
    fresh = path.with_suffix(".new")
    fresh.write_text(toml(inventory), encoding="utf-8")
    fresh.rename(path)


def toml(inventory: LabInventory) -> str:
    """As a lab file: a table an item, and inline tables within."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in inventory.model_dump(mode="json", by_alias=True, exclude_none=True).items():
        if isinstance(value, list):
            for item in value:
                tables += ["", f"[[{key}]]", *(f"{name} = {_value(part)}" for name, part in item.items())]
        else:
            lines.append(f"{key} = {_value(value)}")
    return "\n".join([*lines, *tables, ""])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    # JSON's strings, whole numbers and truth values are TOML's too
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
