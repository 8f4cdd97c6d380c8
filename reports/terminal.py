"""The summary printed at a run's end: numbers per target, then what failed and why, then where the reports lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from conformance.record import Verdict
from reports import view
from reports.matrix import WORST_FIRST, Cell, Matrix
from reports.text import duration, one_line

MAX_LISTED = 25
STYLE = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.FLAKY: "bold yellow",
    Verdict.NOT_CLAIMED: "dim",
    Verdict.WAIVED: "yellow",
    Verdict.NOT_TESTABLE_HERE: "dim",
    Verdict.LAB_ERROR: "bold magenta",
    Verdict.NOT_RUN: "cyan",
}


def show(matrix: Matrix, console: Console | None = None, reports: Iterable[Path] = ()) -> None:
    """Print the summary.

    Args:
        matrix: What to show.
        console: Where; by default standard output, coloured and as wide as the terminal if it is one, otherwise plain
            lines that nothing wraps.
        reports: Files to name at the end.
    """
    console = console or Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        for line in _plain(matrix, reports):
            # Bypasses rich's layout: a log or a grep wants one line to stay one line.
            console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)
        return
    lines = view.rows(matrix)
    for standing in view.standings(matrix, lines):
        console.print()
        console.print(_heading(standing))
        if note := standing.target.evidence_note:
            console.print(Text(f"  {note}", style="dim"))
        if text := view.warning(standing.target):
            console.print(Text(f"  {text}", style="black on yellow"))
        console.print(Padding(_table(standing, lines), (0, 0, 0, 2)))
    for title, cells in _sections(matrix):
        console.print()
        console.print(Text(f"{title} ({len(cells)})", style="bold"))
        for cell in cells[:MAX_LISTED]:
            console.print(_entry(cell, console.width), no_wrap=True, overflow="ellipsis")
        if len(cells) > MAX_LISTED:
            console.print(Text(f"  … and {len(cells) - MAX_LISTED} more in the reports", style="dim"))
    if measurements := view.measurements(matrix):
        console.print()
        console.print(Text("Measured", style="bold"))
        for each in measurements:
            console.print(_figure(each), soft_wrap=True)
    console.print()
    for path in reports:
        console.print(Text(f"  {path}", style="cyan"), soft_wrap=True)


def _heading(standing: view.Standing) -> Text:
    target = standing.target
    kept, decided = standing.requirements[Verdict.PASS], standing.decided
    text = Text()
    text.append(target.target, style="bold")
    text.append(f"  [{target.evidence}]", style="cyan")
    for part in (view.hypervisor(target), target.driver):
        if part:
            text.append(f"  {part}", style="dim")
    whole = bool(decided) and kept == decided
    text.append(f"  {kept} of {decided} requirements kept", style="bold green" if whole else "bold")
    if standing.undecided:
        text.append(f", {standing.undecided} undecided", style="magenta")
    if target.boot_seconds is not None:
        text.append(f"  guest boots in {duration(target.boot_seconds)}", style="dim")
    return text


def _table(standing: view.Standing, lines: Sequence[view.Row]) -> Table:
    present = [verdict for verdict, _ in standing.present()]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("area")
    for verdict in present:
        table.add_column(str(verdict), justify="right")
    for area, counts in by_area(standing.target.target, lines).items():
        table.add_row(area, *(_count(verdict, counts[verdict]) for verdict in present))
    table.add_section()
    table.add_row(Text("cells", style="bold"), *(_count(verdict, standing.cells[verdict]) for verdict in present))
    return table


def by_area(target: str, lines: Sequence[view.Row]) -> dict[str, Counter[Verdict]]:
    """Cells of one target counted by area and verdict."""
    return {
        area: Counter(cell.verdict for line in members if target in line.cells for cell in line.cells[target].cells)
        for area, members in view.areas(lines).items()
        if any(target in line.cells for line in members)
    }


def _count(verdict: Verdict, number: int) -> Text:
    return Text(str(number), style=STYLE[verdict]) if number else Text("·", style="dim")


def _sections(matrix: Matrix) -> Iterator[tuple[str, list[Cell]]]:
    named = (
        ("Failures", view.of_verdict(matrix, Verdict.FAIL)),
        ("Flaky", view.of_verdict(matrix, Verdict.FLAKY)),
        ("Lab errors", view.of_verdict(matrix, Verdict.LAB_ERROR)),
        ("Not run", view.of_verdict(matrix, Verdict.NOT_RUN)),
        ("Residue", [cell for cell in matrix.cells if cell.residue]),
    )
    return ((title, cells) for title, cells in named if cells)


def _entry(cell: Cell, width: int) -> Text:
    text = Text("  ")
    text.append(f"{view.SYMBOL[cell.verdict]} {cell.requirement}", style=STYLE[cell.verdict])
    text.append(f"  {view.place(cell)}  ", style="dim")
    why = one_line(_why(cell))
    if text.cell_len + len(why) > width:  # a message cut in half says nothing: give it a line of its own
        text.append("\n      ")
    text.append(why)
    return text


def _figure(each: view.Measurement) -> Text:
    text = Text(f"  {each.requirement}  {each.what}")
    for target, reading in each.readings.items():
        text.append(f"  {target} ", style="dim")
        text.append(reading.label, style="bold red" if reading.broken else "")
    if each.bound:
        text.append(f"  at most {each.bound}", style="dim")
    return text


def _why(cell: Cell) -> str:
    left = f"left {', '.join(cell.residue)}" if cell.residue else ""
    return " — ".join(part for part in (cell.message, left) if part) or "no message"


def _plain(matrix: Matrix, reports: Iterable[Path]) -> Iterator[str]:
    for standing in view.standings(matrix, view.rows(matrix)):
        target = standing.target
        counts = ", ".join(f"{standing.cells[verdict]} {verdict}" for verdict in WORST_FIRST if standing.cells[verdict])
        kept = f"{standing.requirements[Verdict.PASS]} of {standing.decided} requirements kept"
        kept += f", {standing.undecided} undecided" if standing.undecided else ""
        yield f"{target.target} [{target.evidence}] {view.hypervisor(target)}: {kept}; cells: {counts or 'none'}"
        if target.evidence_note:
            yield f"{target.target}: {target.evidence_note}"
        if text := view.warning(target):
            yield f"{target.target}: {text}"
    for title, cells in _sections(matrix):
        for cell in cells:
            where = f"{cell.requirement} · {view.place(cell)}"
            yield f"{'residue' if title == 'Residue' else cell.verdict}: {where}: {_why(cell)}"
    for each in view.measurements(matrix):
        bound = f", at most {each.bound} allowed" if each.bound else ""
        for slug, reading in each.readings.items():
            yield f"measured: {each.requirement} · {slug}: {each.what} {reading.label}{bound}"
    for path in reports:
        yield f"report: {path}"
