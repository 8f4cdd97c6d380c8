"""matrix.md: the matrix for a pull request, a wiki or a terminal pager."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from conformance.record import Verdict
from reports import view
from reports.history import End
from reports.matrix import WORST_FIRST, Cell, Matrix, Target
from reports.text import duration, one_line

MAX_LISTED = 200
_LEVEL = {"must": "**must**", "conditional": "conditional", "should": "*should*"}
# HTML, links and images, emphasis, code, tables, and the start of a line that would make a heading, a list or a rule.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$@-])")


def escape(text: str, limit: int = 500) -> str:
    """Hostile text as one line of literal Markdown: nothing in it links, mentions, formats or ends a table cell."""
    return _SPECIAL.sub(_entity, one_line(text, limit)).replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def _entity(match: re.Match[str]) -> str:
    # A hyphen or a plus is harmless except where a list could begin; `_` inside a word is not emphasis in CommonMark,
    # but it is in older dialects. Numeric entities hold in all of them, and inside tables too.
    return match[0] if match[0] in "-+()" else f"&#{ord(match[0])};"


def render(matrix: Matrix) -> str:
    """The whole document, ending in a newline."""
    return "\n".join(_document(matrix)).rstrip("\n") + "\n"


def _document(matrix: Matrix) -> Iterator[str]:
    lines = view.rows(matrix)
    yield "# Hypervisor driver conformance"
    yield ""
    for run in matrix.runs:
        end = "" if run.end is End.COMPLETE else f" — **{run.end} before its end**"
        yield f"- run `{_code(run.id)}`, {view.moment(run.started)}, contract {escape(run.contract)}{end}"
    yield ""
    yield "Every detail: [matrix.html](matrix.html). As data: [matrix.json](matrix.json), [matrix.csv](matrix.csv)."
    yield ""
    yield from _targets(matrix)
    yield from _areas(matrix, lines)
    yield from _listed("Failures", view.of_verdict(matrix, Verdict.FAIL))
    yield from _listed("Flaky", view.of_verdict(matrix, Verdict.FLAKY))
    yield from _listed("Lab errors", view.of_verdict(matrix, Verdict.LAB_ERROR))
    yield from _residue(matrix.cells)
    yield from _measured(matrix)
    yield from _table(matrix, lines)
    yield from _untested(matrix)
    yield from _legend()


def _targets(matrix: Matrix) -> Iterator[str]:
    yield "## Targets"
    yield ""
    yield "| target | evidence | hypervisor | driver | lab | guest boot | requirements kept | cells |"
    yield "|---|---|---|---|---|---|---|---|"
    standings = view.standings(matrix, view.rows(matrix))
    for standing in standings:
        target = standing.target
        boot = duration(target.boot_seconds) if target.boot_seconds is not None else ""
        kept = f"{standing.requirements[Verdict.PASS]} of {standing.decided}"
        kept += f" ({standing.undecided} undecided)" if standing.undecided else ""
        counts = " · ".join(f"{count} {verdict}" for verdict, count in standing.present())
        driver = " ".join(part for part in (target.driver, target.facts.get("driver_version", "")) if part)
        cells = (_name(target), _evidence(target), view.hypervisor(target), driver, target.lab, boot)
        yield f"| {' | '.join(escape(cell) for cell in cells)} | {kept} | {counts} |"
    yield ""
    for target in matrix.targets:
        if text := view.warning(target):
            yield f"> **{escape(target.target)}** — {escape(text)}"
            yield ""


def _areas(matrix: Matrix, lines: list[view.Row]) -> Iterator[str]:
    yield "## Areas"
    yield ""
    yield f"| area | {' | '.join(escape(target.target) for target in matrix.targets)} |"
    yield f"|---|{'---|' * len(matrix.targets)}"
    for area, members in view.areas(lines).items():
        cells = []
        for target in matrix.targets:
            counts = Counter(line.cells[target.target].verdict for line in members if target.target in line.cells)
            cells.append(" · ".join(f"{counts[verdict]} {verdict}" for verdict in WORST_FIRST if counts[verdict]))
        yield f"| {escape(area)} | {' | '.join(cells)} |"
    yield ""


def _listed(title: str, cells: list[Cell]) -> Iterator[str]:
    if not cells:
        return
    yield f"## {title} ({len(cells)})"
    yield ""
    for cell in cells[:MAX_LISTED]:
        where = f"**{escape(cell.requirement)}** · {escape(view.place(cell))}"
        yield f"- {where} — {escape(cell.message) or 'no message'}"
    if len(cells) > MAX_LISTED:
        yield f"- … and {len(cells) - MAX_LISTED} more in matrix.html"
    yield ""


def _residue(cells: Iterable[Cell]) -> Iterator[str]:
    dirty = [cell for cell in cells if cell.residue]
    if not dirty:
        return
    yield f"## Residue left on the hosts ({len(dirty)})"
    yield ""
    for cell in dirty[:MAX_LISTED]:
        left = "; ".join(escape(line, 200) for line in cell.residue[:10])
        more = f"; … {len(cell.residue) - 10} more" if len(cell.residue) > 10 else ""
        yield f"- **{escape(cell.requirement)}** · {escape(view.place(cell))} — {left}{more}"
    if len(dirty) > MAX_LISTED:
        yield f"- … and {len(dirty) - MAX_LISTED} more in matrix.html"
    yield ""


def _measured(matrix: Matrix) -> Iterator[str]:
    measurements = view.measurements(matrix)
    if not measurements:
        return
    yield "## Measured"
    yield ""
    yield f"| requirement | figure | at most | {' | '.join(_head(target) for target in matrix.targets)} |"
    yield f"|---|---|---|{'---|' * len(matrix.targets)}"
    for each in measurements:
        readings = " | ".join(_reading(each.readings.get(target.target)) for target in matrix.targets)
        yield f"| {escape(each.requirement)} | {escape(each.what)} | {escape(each.bound)} | {readings} |"
    yield ""


def _reading(reading: view.Reading | None) -> str:
    if reading is None:
        return ""
    return f"**{escape(reading.label)}**" if reading.broken else escape(reading.label)


def _table(matrix: Matrix, lines: list[view.Row]) -> Iterator[str]:
    yield "## Requirements"
    for area, members in view.areas(lines).items():
        yield ""
        yield f"### {escape(area)}"
        yield ""
        yield f"| requirement | level | {' | '.join(_head(target) for target in matrix.targets)} |"
        yield f"|---|---|{'---|' * len(matrix.targets)}"
        for line in members:
            level = _LEVEL.get(line.requirement.level, escape(line.requirement.level))
            cells = " | ".join(_cell(line.cells.get(target.target)) for target in matrix.targets)
            yield f"| {escape(line.requirement.id)} | {level} | {cells} |"
    yield ""


def _cell(cell: view.Collapsed | None) -> str:
    if cell is None:
        return ""
    symbol = view.SYMBOL[cell.verdict]
    if len(cell.worst) == len(cell.cells):
        return f"{symbol} {cell.verdict}"
    where = f": {escape(cell.provenances, 120)}" if cell.verdict is not Verdict.PASS else ""
    text = f"{symbol} {cell.verdict} ({len(cell.worst)}/{len(cell.cells)}{where})"
    return f"**{text}**" if cell.verdict is Verdict.FAIL else text


def _untested(matrix: Matrix) -> Iterator[str]:
    if not matrix.untested:
        return
    yield f"## Not in this matrix ({len(matrix.untested)})"
    yield ""
    yield "Requirements of the contract without a test yet, or left out by the run's selection:"
    yield ", ".join(escape(name) for name in matrix.untested) + "."
    yield ""


def _legend() -> Iterator[str]:
    yield "## Verdicts"
    yield ""
    for verdict in WORST_FIRST:
        yield f"- {view.SYMBOL[verdict]} **{verdict}**: {view.MEANING[verdict]}"


def _name(target: Target) -> str:
    return f"{target.target} ⚠ seeded defect {target.defect}" if target.defect else target.target


def _head(target: Target) -> str:
    return f"{escape(_name(target))}<br>{escape(str(target.evidence))}"


def _evidence(target: Target) -> str:
    return f"{target.evidence} ({target.evidence_note})" if target.evidence_note else str(target.evidence)


def _code(text: str) -> str:
    return one_line(text, 100).replace("`", "'")
