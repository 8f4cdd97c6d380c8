"""How long one request to a guest agent takes through the wire peer, and what of it is whose.

    python bench/agent_roundtrip.py [--requests N]

Needs root and QEMU: a guest on a bridge in a network namespace of its own, under TCG.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.observers.real_guest import real_guest


def median_ms(what: str, request: Callable[[], object], requests: int) -> None:
    """Print the median and the 95th percentile of the wall time of a request."""
    times = []
    for _ in range(requests):
        began = time.perf_counter()
        request()
        times.append((time.perf_counter() - began) * 1000)
    percentile = statistics.quantiles(times, n=20)[18]
    print(f"{what:<44} median {statistics.median(times):6.2f} ms   95 % {percentile:6.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as folder, real_guest(Path(folder)) as real:
        address = real.peer.lease("02:68:76:00:00:10") or ""
        median_ms("the peer process alone (a lease)", lambda: real.peer.lease("02:00:00:00:00:99"), requests)
        median_ms("ping through the peer", lambda: real.peer.ping(address), requests)
        median_ms("agent request through the peer", real.guest.boot, requests)
        median_ms("agent request over the serial console", real.serial.boot, max(20, requests // 10))


if __name__ == "__main__":
    main()
