"""Processes of this machine, found by their command lines: no PID file is believed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from conformance.waiting import until


def pids() -> list[int]:
    """Every process there is."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def alive(pid: int) -> bool:
    """Whether a process lives; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Every living process that has a command line, with its words."""
    for pid in pids():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            if words != [b""] and alive(pid):
                yield pid, [word.decode(errors="replace") for word in words]


def end(what: str, which: Iterable[int]) -> None:
    """Kill processes at once and wait until each is gone; raises `WaitTimeout`."""
    which = list(which)
    for pid in which:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(
        f"{what} to end",
        lambda: [pid for pid in which if alive(pid)],
        lambda left: not left,
        seconds=30,
        interval=0.02,
    )
