"""How long the nested libvirt lab takes to come up, to be taken over, to be looked at and to go: prints one line each.

Usage: python bench/lab_up.py [ROUNDS]   (root; cell 90, in a state folder of its own)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from labs.kvm import KvmLab
from labs.libvirt_hosts.observers import LibvirtObservers

_CELL = 90


def _quiet(_: str) -> None:
    pass


def main(rounds: int) -> None:
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        start = time.perf_counter()
        call()
        times.setdefault(name, []).append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory(prefix="hvc-") as folder:
        state = Path(folder) / "lab"
        try:
            for _ in range(rounds):
                timed("up", lambda: KvmLab.up(_CELL, state, _quiet))
                timed("take over", lambda: KvmLab.up(_CELL, state, _quiet))
                observers = LibvirtObservers(KvmLab.up(_CELL, state, _quiet))
                timed("health", observers.health)
                timed("domains", observers.host("a").domains)
                timed("inventory", observers.host("a").inventory)
                timed("restart daemon", observers.host("a").restart_management)
                observers.close()
                timed("down", lambda: KvmLab.down(_CELL, state, _quiet))
        finally:
            KvmLab.down(_CELL, state, _quiet)
    for name, taken in times.items():
        print(f"{name:15} median {statistics.median(taken):6.3f} s   longest {max(taken):6.3f} s   of {rounds}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
