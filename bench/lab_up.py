"""How long a nested lab takes to come up, to be taken over, to be looked at and to go: prints one line each.

Usage: python bench/lab_up.py [ROUNDS] [kvm|xen] [cold]   (kvm: root; cell 90, in a state folder of its own)

`cold` builds everything first, in a cache folder of its own: packages, guest, hosts, saved states.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from conformance.lab.lab import LabKind
from labs.hosts.observers import HostObservers
from labs.kvm import KvmLab
from labs.xen import XenLab

_CELL = 90
_KINDS: dict[str, type[LabKind]] = {"kvm": KvmLab, "xen": XenLab}


def _quiet(_: str) -> None:
    pass


def main(rounds: int, kind: type[LabKind], *, cold: bool) -> None:
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        start = time.perf_counter()
        call()
        times.setdefault(name, []).append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory(prefix="hvc-") as folder:
        state = Path(folder) / "lab"
        try:
            if cold:
                os.environ["HVCONFORM_CACHE"] = f"{folder}/cache"
                timed("cold build and up", lambda: kind.up(_CELL, state, print))
                kind.down(_CELL, state, _quiet)
            for _ in range(rounds):
                timed("up", lambda: kind.up(_CELL, state, _quiet))
                timed("take over", lambda: kind.up(_CELL, state, _quiet))
                observers = kind.observe(kind.up(_CELL, state, _quiet))
                assert isinstance(observers, HostObservers)
                probe = observers.host("a")
                timed("first health", observers.health)
                timed("health", observers.health)
                timed("domains", probe.domains)
                timed("inventory", probe.inventory)
                timed("restart daemon", probe.restart_management)
                observers.close()
                timed("down", lambda: kind.down(_CELL, state, _quiet))
        finally:
            kind.down(_CELL, state, _quiet)
    for name, taken in times.items():
        print(f"{name:18} median {statistics.median(taken):6.3f} s   longest {max(taken):6.3f} s   of {len(taken)}")


if __name__ == "__main__":
    words = sys.argv[1:]
    named = next((word for word in words if word in _KINDS), "kvm")
    main(next((int(word) for word in words if word.isdigit()), 3), _KINDS[named], cold="cold" in words)
