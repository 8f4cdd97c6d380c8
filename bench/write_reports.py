"""Prints what it takes to make every report of a run of 5,000 cells: time a report, size, peak memory."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from conformance.model import Evidence
from conformance.record import (
    Attachment,
    DriverCall,
    ItemFinished,
    ItemPlanned,
    ItemStarted,
    Recorder,
    RunFinished,
    RunStarted,
    TargetSeen,
    Verdict,
)
from reports import build, html, junit, load, markdown, table

TARGETS, PROVENANCES, REQUIREMENTS = 5, 10, 100
CALLS = 8


def write(folder: Path) -> None:
    """A run in which one cell in fifty fails, with a traceback and a full console."""
    recorder = Recorder(folder, "controller")
    recorder.write(RunStarted(run="bench", hvconform="0", contract="0", arguments=[], python="3", machine="x"))
    for target in range(TARGETS):
        slug = f"target-{target}"
        recorder.write(
            TargetSeen(target=slug, lab="bench", driver="bench", evidence=Evidence.SIMULATED, boot_seconds=0.02)
        )
        for number in range(REQUIREMENTS * PROVENANCES):
            area = f"area{number // PROVENANCES % 10}"
            requirement, provenance = f"{area}.requirement-{number // PROVENANCES}", f"way-{number % PROVENANCES}"
            item = f"suites/test_{area}.py::test_{number // PROVENANCES}[{slug}-{provenance}]"
            recorder.write(ItemPlanned(item=item, requirement=requirement, target=slug, provenance=provenance))
            recorder.write(ItemStarted(item=item, worker="gw0"))
            for _ in range(CALLS):
                recorder.write(DriverCall(item=item, operation="reboot", arguments="vm='a', mode='soft'", seconds=0.1))
            broken = number % 50 == 7
            if broken:
                recorder.write(Attachment(item=item, name="serial console", text="[    0.000000] Linux\n" * 3_000))
            recorder.write(
                ItemFinished(
                    item=item,
                    requirement=requirement,
                    target=slug,
                    provenance=provenance,
                    verdict=Verdict.FAIL if broken else Verdict.PASS,
                    seconds=0.8,
                    message="the boot id did not change" if broken else "",
                    detail="Traceback\n" * 60 if broken else "",
                    refusal="",
                )
            )
    recorder.write(RunFinished(exit_code=1))
    recorder.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        begun = time.perf_counter()
        history = load(folder)
        print(f"{'read the record':<18}{time.perf_counter() - begun:7.2f} s")
        begun = time.perf_counter()
        matrix = build(history)
        print(f"{'build the matrix':<18}{time.perf_counter() - begun:7.2f} s  {len(matrix.cells):,} cells")
        histories = {history.started.run: history}
        reports: dict[str, Callable[[], str]] = {
            "matrix.json": lambda: matrix.model_dump_json(indent=1),
            "matrix.md": lambda: markdown.render(matrix),
            "matrix.html": lambda: html.render(matrix, histories),
            "matrix.csv": lambda: table.render(matrix),
            "junit.xml": lambda: junit.render(matrix, histories),
        }
        for report, render in reports.items():
            begun = time.perf_counter()
            size = len(render().encode())
            print(f"{report:<18}{time.perf_counter() - begun:7.2f} s  {size / 1e6:6.2f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory':<18}{peak:7.0f} MiB")


if __name__ == "__main__":
    main()
