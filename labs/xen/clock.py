"""The time of day in a host: a clone of a saved state believes that it is still when it was saved."""

from __future__ import annotations

import time
from dataclasses import dataclass

from conformance.errors import LabError
from conformance.shells.shell import Process, Shell

_CLOSE_S = 0.1
_EXCHANGES = 12
_TRIES = 8

# answers each line with the time; a line that is not empty is by how much to step the clock first
_THERE = """
import sys, time
for line in iter(sys.stdin.readline, ""):
    if line.strip():
        time.clock_settime(time.CLOCK_REALTIME, time.time() + float(line))
    print(repr(time.time()), flush=True)
"""


@dataclass(frozen=True, slots=True, order=True)
class Reading:
    """By how many seconds a host's clock is behind this machine's, and by how many that may be wrong."""

    uncertain: float
    behind: float


def read(shell: Shell) -> Reading:
    """Look at a host's clock."""
    process = shell.popen(["python3", "-u", "-c", _THERE])
    try:
        return _best(process)
    finally:
        process.close()


def set_right(host: str, shell: Shell) -> Reading:
    """Set a host's clock by this machine's; Xen takes it over from dom0, and guests that start take it from Xen.

    Raises:
        LabError: It does not stay right.
    """
    process = shell.popen(["python3", "-u", "-c", _THERE])
    try:
        found = _best(process)
        for _ in range(_TRIES):
            if abs(found.behind) <= _CLOSE_S:
                return found
            # it may move while the host catches up with what it missed on a busy machine
            _exchange(process, f"{found.behind:.6f}")
            found = _best(process)
    finally:
        process.close()
    raise LabError(f"the clock of host {host} is wrong by {found.behind:.2f} s and cannot be set")


def _best(process: Process) -> Reading:
    # on a busy machine most exchanges are late; the quickest one says most
    return min(_exchange(process, "") for _ in range(_EXCHANGES))


def _exchange(process: Process, line: str) -> Reading:
    before = time.time()
    process.stdin.write(f"{line}\n".encode())
    process.stdin.flush()
    said = b""
    while not said.endswith(b"\n"):
        chunk = process.stdout.read(100)
        if not chunk:
            raise LabError("a host's clock cannot be read: Python ended there")
        said += chunk
    after = time.time()
    return Reading((after - before) / 2, (before + after) / 2 - float(said))
