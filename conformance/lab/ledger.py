"""The ledger: what a run is about to make on a lab, written before it is made and settled after it is gone.

One append-only file a lab and process. A process that is killed leaves names that were promised and never settled;
`hvconform sweep` hands them to the driver's `reclaim`.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conformance import paths
from conformance.errors import LabError


@dataclass(frozen=True, slots=True)
class Promise:
    """A name that may exist on the lab, and the target whose driver can reclaim it."""

    name: str
    target: str


class Ledger:
    """One process's ledger for one target.

    Args:
        path: The file; made if missing, and removed again by `close` when nothing is left to settle.
        target: Slug of the target whose driver makes things.
    """

    def __init__(self, path: Path, target: str) -> None:
        self.path = path
        self._target = target
        self._open: set[str] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from None
        # held until the process ends, however it ends: a sweep leaves the ledgers of living processes alone
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def promise(self, name: str) -> None:
        """Write `name` down, on disk before this returns: even a power cut must not lose it."""
        self._open.add(name)
        self._append({"promise": name, "target": self._target}, sync=True)

    def settle(self, name: str) -> None:
        """Nothing exists under `name` any more."""
        self._open.discard(name)
        self._append({"settle": name}, sync=False)

    def new_mac(self) -> str:
        """A random MAC of the locally administered range that KVM's vendors use, so no real card has it."""
        return "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))

    def _append(self, entry: Mapping[str, str], *, sync: bool) -> None:
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        if not self._open:
            self.path.unlink(missing_ok=True)
        self._file.close()


def see_writable() -> None:
    """Raise `LabError` where no ledger can be written: nothing could be made on any lab."""
    path = paths.state_dir() / "ledgers" / f"try-{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?" * 4096)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> LabError:
    return LabError(
        f"the ledger {path} cannot be written: {error.strerror}",
        hint=f"free some space in {paths.state_dir()}, or set HVCONFORM_STATE to another folder",
    )


def unsettled(path: Path) -> list[Promise]:
    """The promises of one ledger file that were never settled, oldest first; a torn last line is a promise not made."""
    found: dict[str, Promise] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "promise" in entry:
            found[entry["promise"]] = Promise(entry["promise"], entry["target"])
        else:
            found.pop(entry.get("settle", ""), None)
    return list(found.values())
