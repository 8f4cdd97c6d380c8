"""matrix.html: the matrix as one self-contained page, every text of a guest or a host escaped and bounded."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from conformance.record import Verdict
from reports import view
from reports.history import Call, History, Item, left_out
from reports.matrix import WORST_FIRST, Cell, Matrix, Target
from reports.text import duration, plain

_TEMPLATES = Path(__file__).with_name("templates")
_ANCHOR = re.compile(r"[^A-Za-z0-9._-]+")
# What a pass keeps of its driver calls; what is not a pass keeps all of them. 5,000 passes must stay one page.
_CALLS_OF_A_PASS = 30
# Attachments of all cells together: past this the page names them and the record keeps them.
_ATTACHED = 24 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Detail:
    """What is shown of a cell besides the cell itself."""

    calls: tuple[Call, ...]
    boot_seconds: float
    tracebacks: tuple[str, ...]
    attachments: tuple[tuple[str, str], ...]
    left_out: str

    @property
    def calls_seconds(self) -> float:
        """Time inside the driver."""
        return sum(call.seconds for call in self.calls)


def render(matrix: Matrix, histories: Mapping[str, History] | None = None) -> str:
    """The whole page.

    Args:
        matrix: What to show.
        histories: By run id; driver calls, tracebacks and attachments are taken from them where given.
    """
    lines = view.rows(matrix)
    style, script = _asset("matrix.css"), _asset("matrix.js")
    details = _Details(histories or {})
    return (
        _environment()
        .get_template("matrix.html.j2")
        .render(
            matrix=matrix,
            areas=view.areas(lines),
            standings=view.standings(matrix, lines),
            failures=view.findings(matrix, lines, Verdict.FAIL, Verdict.FLAKY),
            faults=view.findings(matrix, lines, Verdict.LAB_ERROR, Verdict.NOT_RUN),
            measurements=view.measurements(matrix),
            dirty=[cell for cell in matrix.cells if cell.residue],
            verdicts=[verdict for verdict in WORST_FIRST if any(cell.verdict is verdict for cell in matrix.cells)],
            levels=list(dict.fromkeys(line.requirement.level for line in lines)),
            detail=details.of,
            tally=_tally,
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script),
        )
    )


class _Details:
    """Details of cells, until the page is full."""

    def __init__(self, histories: Mapping[str, History]) -> None:
        self._histories = histories
        self._room = _ATTACHED

    def of(self, cell: Cell) -> Detail:
        history = self._histories.get(cell.run)
        items = [history.items[name] for name in cell.items] if history else []
        good = cell.verdict in view.GOOD
        calls = [call for item in items for call in item.calls]
        kept = calls[-_CALLS_OF_A_PASS:] if good else calls
        missing = [text for item in items if (text := left_out(item))]
        if len(kept) < len(calls):
            missing.append(f"{len(calls) - len(kept)} earlier driver calls")
        return Detail(
            calls=tuple(kept),
            boot_seconds=sum(item.boot_seconds for item in items),
            tracebacks=tuple(plain(finish.detail) for item in items for finish in item.finishes if finish.detail),
            attachments=tuple(attachment for item in items for attachment in self._attachments(item, missing)),
            left_out=" and ".join(missing),
        )

    def _attachments(self, item: Item, missing: list[str]) -> Iterator[tuple[str, str]]:
        for name, text in item.attachments:
            if len(text) > self._room:
                missing.append(f"“{name}”")
                continue
            self._room -= len(text)
            yield name, text


def _tally(target: str, members: list[view.Row]) -> list[tuple[Verdict, int]]:
    counts = Counter(line.cells[target].verdict for line in members if target in line.cells)
    return [(verdict, counts[verdict]) for verdict in WORST_FIRST if counts[verdict]]


def anchor(*parts: str) -> str:
    """An id for a link that stays the same from run to run."""
    return "--".join(_ANCHOR.sub("-", part) for part in parts if part)


def _test(cell: Cell) -> str:
    """The test's own words, for a cell that has no provenance to name."""
    function = cell.items[0].partition("[")[0].rpartition("::")[2] if cell.items else ""
    return function.removeprefix("test_").replace("_", " ")


def _bar(counts: Mapping[Verdict, int]) -> list[tuple[Verdict, float, float]]:
    """Verdict, start and width in percent of a bar, passes first."""
    total = sum(counts.values())
    parts: list[tuple[Verdict, float, float]] = []
    at = 0.0
    for verdict in (Verdict.PASS, *(other for other in WORST_FIRST if other is not Verdict.PASS)):
        if counts[verdict]:
            width = 100 * counts[verdict] / total
            parts.append((verdict, round(at, 3), round(width, 3)))
            at += width
    return parts


def _notes(target: Target) -> list[tuple[str, str]]:
    """What is known of a target, for reading."""
    known = {
        "hypervisor": view.hypervisor(target),
        "driver": " ".join(part for part in (target.driver, target.facts.get("driver_version", "")) if part),
        "lab": target.lab,
        "evidence": f"{target.evidence}: {target.evidence_note or view.EVIDENCE_MEANING[target.evidence]}",
        "guest boot": duration(target.boot_seconds) if target.boot_seconds is not None else "",
        "run": target.run,
        "capabilities": ", ".join(target.capabilities),
    }
    shown = {"hypervisor", "version", "accelerator", "driver", "driver_version"}
    rest = {name: value for name, value in target.facts.items() if name not in shown}
    return [(name, value) for name, value in (known | rest).items() if value]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "moment": view.moment, "bar": _bar, "notes": _notes}
    environment.globals |= {
        "anchor": anchor,
        "symbol": view.SYMBOL,
        "meaning": view.MEANING,
        "evidence_meaning": view.EVIDENCE_MEANING,
        "place": view.place,
        "test": _test,
        "warning": view.warning,
        "hypervisor": view.hypervisor,
        "Verdict": Verdict,
        "good": view.GOOD,
    }
    return environment


def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy that runs our script and style and nothing else: the second lock behind escaping."""
    hashes = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in (("style", style), ("script", script))
    }
    return (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )
