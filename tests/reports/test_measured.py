"""What tests measured stands in every report, beside its bound, the largest of several provenances for all."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from conformance.model import Evidence
from conformance.record import Figure, Verdict
from reports import html, junit, markdown, table, terminal
from reports.history import load
from reports.matrix import Matrix, build
from tests.reports.records import CONTRACT, Record

HOSTILE = "<b>gap</b>\x1b[31m | =cmd"


@pytest.fixture
def matrix(tmp_path: Path) -> Matrix:
    """A gap that is too long on one target and bearable on another, and one of nothing the contract bounds."""
    run = Record(tmp_path / "record")
    run.target()
    run.target("sim", Evidence.SIMULATED, note="")
    for provenance, gap in (("booted", 12.3), ("migrated", 2345.6)):
        item = run.plan("time.drift", provenance=provenance)
        run.start(item)
        run.measure(item, "longest gap", gap, at_most=2000)
        run.finish(item, Verdict.FAIL if gap > 2000 else Verdict.PASS, "too long" if gap > 2000 else "")
    item = run.plan("time.drift", "sim")
    run.start(item)
    run.measure(item, "longest gap", 0.5, at_most=2000)
    run.finish(item)
    item = run.plan("boot.cpu-count")
    run.start(item)
    run.measure(item, HOSTILE, 7, "s\x1b[0m")
    run.finish(item)
    return build(load(run.end()), CONTRACT)


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(what="gap", value=10660.86, unit="ms", at_most=2000), "gap 10661 ms, at most 2000 ms allowed"),
        (Figure(what="gap", value=0.0391, unit="s", at_most=2), "gap 0.0391 s, at most 2 s allowed"),
        (Figure(what="gap", value=12.34, unit="ms"), "gap 12.3 ms"),
        (Figure(what="gap", value=0, unit="ms"), "gap 0 ms"),
    ],
)
def test_figures_read_as_people_write_them(figure: Figure, text: str) -> None:
    assert str(figure) == text


def test_of_several_attempts_the_last_one_speaks(tmp_path: Path) -> None:
    run = Record(tmp_path / "record")
    run.target()
    item = run.plan("time.drift")
    # the second attempt's worker has the name that is read first
    for worker, gap in (("gw1", 3000.0), ("gw0", 15.0)):
        run.start(item, worker)
        run.measure(item, "longest gap", gap, at_most=2000, worker=worker)
        run.finish(item, Verdict.FAIL if gap > 2000 else Verdict.PASS, worker=worker)

    (cell,) = build(load(run.end()), CONTRACT).cells

    assert cell.figures == [Figure(what="longest gap", value=15.0, unit="ms", at_most=2000)]


def test_markdown_has_a_table_of_figures_and_marks_the_broken_bound(matrix: Matrix) -> None:
    document = markdown.render(matrix)

    assert "| time.drift | longest gap | 2000 ms | **2346 ms, the largest of 2: migrated** | 0.5 ms |" in document
    assert "| boot.cpu-count | &#60;b&#62;gap&#60;/b&#62; &#124; =cmd |  | 7 s |  |" in document


def test_the_page_has_them_in_a_table_and_in_each_cell(matrix: Matrix) -> None:
    page = html.render(matrix)

    # on a narrow screen the table has no heads, and each figure is shown beside its `data-target`
    assert '<td role="cell" data-target="kvm"><a class="bad" href="#c--kvm--time.drift--migrated">2346 ms</a>' in page
    assert '<td role="cell" data-target="sim"><a href="#c--sim--time.drift--booted">0.5 ms</a>' in page
    assert '<p class="figure">longest gap <b>12.3 ms</b> <span class="dim">at most 2000 ms</span></p>' in page
    assert "<b>gap" not in page


def test_csv_has_them_in_a_column(matrix: Matrix) -> None:
    lines = csv.DictReader(io.StringIO(table.render(matrix)))

    assert [line["measured"] for line in lines if line["requirement"] == "time.drift"] == [
        "longest gap 12.3 ms, at most 2000 ms allowed",
        "longest gap 2346 ms, at most 2000 ms allowed",
        "longest gap 0.5 ms, at most 2000 ms allowed",
    ]


def test_junit_has_them_as_properties(matrix: Matrix) -> None:
    root = ElementTree.fromstring(junit.render(matrix))

    found = {case.get("name"): [p.attrib for p in case.iter("property")] for case in root.iter("testcase")}
    assert found["time.drift[migrated]"] == [{"name": "longest gap", "value": "2346 ms"}]


@pytest.mark.parametrize("terminal_width", [0, 160])
def test_the_terminal_names_the_largest(matrix: Matrix, terminal_width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=bool(terminal_width), width=terminal_width or 80, color_system=None)

    terminal.show(matrix, console)

    if terminal_width:
        line = "  time.drift  longest gap  kvm 2346 ms, the largest of 2: migrated  sim 0.5 ms  at most 2000 ms"
    else:
        line = "measured: time.drift · kvm: longest gap 2346 ms, the largest of 2: migrated, at most 2000 ms allowed"
    assert line in out.getvalue().splitlines()


def test_without_figures_nothing_is_said_of_them(tmp_path: Path) -> None:
    run = Record(tmp_path / "record")
    run.target()
    run.ran("boot.cpu-count", Verdict.PASS)
    matrix = build(load(run.end()), CONTRACT)

    assert "Measured" not in markdown.render(matrix)
    assert "Measured" not in html.render(matrix)
