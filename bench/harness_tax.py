"""Prints a run's harness tax: wall time of its items over the time spent inside driver calls and guest boots.

    python bench/harness_tax.py RUN

Time that a test waits on purpose (a stream that has to flow, a glance at nothing happening) counts as the harness's.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from conformance.record import DriverCall, GuestBoot, ItemFinished, read


def main() -> None:
    run = Path(sys.argv[1])
    wall: dict[str, float] = {}
    inside: dict[str, float] = defaultdict(float)
    for event in read(run / "record" if (run / "record").is_dir() else run):
        if isinstance(event, ItemFinished):
            wall[event.item] = event.seconds
        elif isinstance(event, DriverCall | GuestBoot):
            inside[event.item] += event.seconds
    total, spent = sum(wall.values()), sum(seconds for item, seconds in inside.items() if item in wall)
    ratio = f"{total / spent:.3f}" if spent else "no driver call was made"
    print(f"harness tax: {total:.1f} s of items / {spent:.1f} s in the driver and in boots = {ratio} (goal 1.05)")
    for item in sorted(wall, key=lambda name: inside[name] - wall[name])[:10]:
        print(f"  {wall[item] - inside[item]:7.2f} s outside  {item}")


if __name__ == "__main__":
    main()
