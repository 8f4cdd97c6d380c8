"""junit.xml: one test suite a target, for CI servers that show nothing else."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from xml.etree import ElementTree

from conformance.record import Verdict
from reports.history import History
from reports.matrix import Cell, Matrix, Target
from reports.text import plain
from reports.view import MEANING

_FAILURE = frozenset({Verdict.FAIL, Verdict.FLAKY})
_SKIPPED = frozenset({Verdict.NOT_CLAIMED, Verdict.NOT_TESTABLE_HERE, Verdict.NOT_RUN, Verdict.WAIVED})


def render(matrix: Matrix, histories: dict[str, History] | None = None) -> str:
    """The whole document.

    Args:
        matrix: What to write.
        histories: By run id; tracebacks are taken from them where given.
    """
    cells: dict[str, list[Cell]] = defaultdict(list)
    for cell in matrix.cells:
        cells[cell.target].append(cell)
    root = ElementTree.Element("testsuites", name="hvconform")
    started = {run.id: run.started for run in matrix.runs}
    areas = {requirement.id: requirement.area for requirement in matrix.requirements}
    for target in matrix.targets:
        suite = _suite(target, cells[target.target], started.get(target.run, 0.0))
        for cell in cells[target.target]:
            suite.append(_case(cell, areas[cell.requirement], _detail(cell, histories or {})))
        root.append(suite)
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    root.set("time", f"{sum(cell.duration for cell in matrix.cells):.3f}")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(target: Target, cells: list[Cell], started: float) -> ElementTree.Element:
    verdicts = [cell.verdict for cell in cells]
    suite = ElementTree.Element(
        "testsuite",
        name=_xml(target.target),
        timestamp=datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        tests=str(len(cells)),
        failures=str(sum(verdict in _FAILURE for verdict in verdicts)),
        errors=str(verdicts.count(Verdict.LAB_ERROR)),
        skipped=str(sum(verdict in _SKIPPED for verdict in verdicts)),
        time=f"{sum(cell.duration for cell in cells):.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    described = {
        "evidence": str(target.evidence),
        "evidence_note": target.evidence_note,
        "driver": target.driver,
        "lab": target.lab,
        "defect": target.defect,
        "run": target.run,
        **{f"fact.{name}": value for name, value in target.facts.items()},
    }
    for name, value in described.items():
        if value:
            ElementTree.SubElement(properties, "property", name=_xml(name), value=_xml(value))
    return suite


def _case(cell: Cell, area: str, detail: str) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        classname=_xml(area),
        name=_xml(f"{cell.requirement}[{cell.provenance}]" if cell.provenance else cell.requirement),
        time=f"{cell.duration:.3f}",
    )
    if cell.figures:
        properties = ElementTree.SubElement(case, "properties")
        for figure in cell.figures:
            ElementTree.SubElement(properties, "property", name=_xml(figure.what), value=_xml(figure.text))
    verdict = cell.verdict
    why = cell.message or cell.refusal or MEANING[verdict]
    if verdict in _FAILURE:
        found = ElementTree.SubElement(case, "failure", type=str(verdict), message=_xml(why))
        found.text = _xml(detail or why)
    elif verdict is Verdict.LAB_ERROR:
        found = ElementTree.SubElement(case, "error", type=str(verdict), message=_xml(why))
        found.text = _xml(detail or why)
    elif verdict in _SKIPPED:
        ElementTree.SubElement(case, "skipped", type=str(verdict), message=_xml(f"{verdict}: {why}"))
    if cell.residue:
        ElementTree.SubElement(case, "system-err").text = _xml("left on the hosts:\n" + "\n".join(cell.residue))
    return case


def _detail(cell: Cell, histories: dict[str, History]) -> str:
    history = histories.get(cell.run)
    if history is None:
        return ""
    details = [finish.detail for name in cell.items for finish in history.items[name].finishes if finish.detail]
    return "\n\n".join(details)


def _xml(text: str) -> str:
    return plain(text)
