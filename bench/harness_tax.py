"""Prints a run's harness tax: wall time of its items over the time spent inside driver calls and guest boots.

    python bench/harness_tax.py RUN

The rest is told apart: before an item's first call and after its last one it is the harness's own (fixtures, looks at
the hosts, the record); between its calls, and in items that make none, it is what tests look at and wait for.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from conformance.record import DriverCall, GuestBoot, ItemFinished, ItemStarted, read


@dataclass
class Spent:
    """Where the time of one item went; seconds. `calls` are those of the driver, and boots, as (begin, end)."""

    started: float = 0.0
    ended: float = 0.0
    wall: float = 0.0
    calls: list[tuple[float, float]] = field(default_factory=list)

    @property
    def inside(self) -> float:
        """What is made while an operation is under way counts once."""
        total, to = 0.0, 0.0
        for begin, end in sorted(self.calls):
            total += max(0.0, end - max(begin, to))
            to = max(to, end)
        return total

    @property
    def outside(self) -> float:
        return self.wall - self.inside

    @property
    def own(self) -> float:
        """The harness's, as far as calls delimit it."""
        if not self.calls:
            return 0.0
        first, last = min(begin for begin, _ in self.calls), max(end for _, end in self.calls)
        return max(0.0, first - self.started) + max(0.0, self.ended - last)


def main() -> None:
    run = Path(sys.argv[1])
    items: dict[str, Spent] = defaultdict(Spent)
    for event in read(run / "record" if (run / "record").is_dir() else run):
        if not isinstance(event, ItemStarted | DriverCall | GuestBoot | ItemFinished):
            continue
        item = items[event.item]
        if isinstance(event, ItemStarted):
            item.started = event.time
        elif isinstance(event, ItemFinished):
            item.wall, item.ended = event.seconds, event.time
        elif item.started:  # calls before any item measure the pace
            item.calls.append((event.time - event.seconds, event.time))
    done = {name: item for name, item in items.items() if item.wall}
    total, inside = sum(item.wall for item in done.values()), sum(item.inside for item in done.values())
    own = sum(item.own for item in done.values())
    ratio = f"{total / inside:.3f}" if inside else "no driver call was made"
    print(f"harness tax: {total:.1f} s of items / {inside:.1f} s in the driver and in boots = {ratio} (goal 1.05)")
    print(f"  {own:7.2f} s are the harness's own, before first and after last calls")
    print(f"  {total - inside - own:7.2f} s are tests': what they look at and wait for")
    for name in sorted(done, key=lambda name: -done[name].outside)[:10]:
        print(f"  {done[name].outside:7.2f} s outside  {name}")


if __name__ == "__main__":
    main()
