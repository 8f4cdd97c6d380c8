"""Every report tells the same story as the matrix, and none of them believes a guest."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

import reports
from conformance.errors import LabError
from conformance.model import Evidence
from conformance.record import Verdict
from reports import html, junit, markdown, table, terminal
from reports.history import load
from reports.matrix import Matrix, build
from tests.reports.records import CONTRACT, Record

HOSTILE = "<script>alert(1)</script>\x1b[31m\x1b]0;t\x07 =cmd|'/C calc'!A0 ]]> &amp; \u202e \x00 \ufffe"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with something of everything on a nested target, and passes on a simulated one."""
    run = Record(tmp_path / "record")
    run.target()
    run.target("sim", Evidence.SIMULATED, note="")
    run.ran("boot.cpu-count", Verdict.PASS)
    run.ran("boot.cpu-count", Verdict.FAIL, provenance="migrated", message="3 CPUs, 2 asked for")
    run.ran("boot.memory-size", Verdict.FAIL, Verdict.PASS, message="lost 4 MiB")
    item = run.plan("reboot.exactly-once")
    run.start(item)
    run.call(item, "reboot", 0.25, error=f"HypervisorFailure: {HOSTILE}", arguments=HOSTILE)
    run.attach(item, HOSTILE, HOSTILE)
    run.finish(item, Verdict.FAIL, HOSTILE, detail=HOSTILE, residue=("kvm-a: interface vnet3", HOSTILE))
    item = run.plan("pause.freezes-vcpus")
    run.start(item)
    run.finish(item, Verdict.NOT_CLAIMED, refusal="Unsupported: pause is not supported")
    run.start(run.plan("time.drift"))
    for rule in CONTRACT:
        run.ran(rule.id, Verdict.PASS, target="sim")
    return run.end(1)


@pytest.fixture
def matrix(folder: Path) -> Matrix:
    return build(load(folder), CONTRACT)


class Page(HTMLParser):
    """Tags and texts of a page, and whether every element was closed."""

    VOID = frozenset({"meta", "input", "br", "rect"})

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def every(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture
def page(matrix: Matrix, folder: Path) -> Page:
    return Page(html.render(matrix, {"r1": load(folder)}))


def test_the_page_is_well_formed_and_loads_nothing(page: Page) -> None:
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in {"img", "link", "iframe", "object", "base"}
        assert not attributes.keys() & {"src", "style", "srcset", "action"}
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")


def test_the_page_runs_one_script_which_is_ours(page: Page) -> None:
    assert len(list(page.every("script"))) == 1
    (policy,) = [meta["content"] for meta in page.every("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", policy)
    assert "<script>alert(1)</script>" in page.text, "shown as text"


def test_the_page_holds_no_control_characters(page: Page) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ufffe]", page.text)


def test_every_link_of_the_page_leads_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {str(link["href"])[1:] for link in page.every("a")}
    assert "c--kvm--boot.cpu-count--migrated" in links
    assert links <= set(ids)


def test_the_page_labels_every_column_with_its_evidence_and_warns_of_the_simulated_one(page: Page) -> None:
    scopes = [header["scope"] for header in page.every("th")]
    assert scopes.count("col") == 3
    assert None not in scopes
    badges = [span["class"] for span in page.every("span") if str(span.get("class")).startswith("badge e-")]
    assert {"badge e-nested", "badge e-simulated"} == set(badges)
    assert "Simulated: an in-memory world" in page.text


def test_the_page_shows_driver_calls_with_durations(tmp_path: Path) -> None:
    run = Record(tmp_path / "record")
    run.target()
    for rule, verdict in ((CONTRACT[0], Verdict.PASS), (CONTRACT[1], Verdict.FAIL)):
        item = run.plan(rule.id)
        run.start(item)
        run.call(item, f"reboot-{verdict}", 0.25, error="Busy: later" if verdict is Verdict.FAIL else "")
        run.boot(item, 2.1)
        run.finish(item, verdict)
    history = load(run.end())
    text = Page(html.render(build(history, CONTRACT), {"r1": history})).text
    assert "Driver calls 250 ms, guest boots 2.1 s: reboot-pass 250 ms" in text
    assert "1 driver call, 250 ms; guest boots 2.1 s" in text
    assert "reboot-fail250 msvm=aBusy: later" in text


def test_the_page_warns_of_a_seeded_defect(tmp_path: Path) -> None:
    texts = []
    for defect in ("reboot-noop", ""):
        run = Record(tmp_path / (defect or "none"))
        run.target(defect=defect)
        run.ran("boot.cpu-count", Verdict.PASS)
        texts.append(Page(html.render(build(load(run.end()), CONTRACT))).text)
    assert "Seeded defect “reboot-noop”" in texts[0]
    assert "Seeded defect" not in texts[1]


@pytest.mark.parametrize(("exit_code", "words"), [(None, "killed before its end"), (2, "interrupted before its end")])
def test_the_pages_say_that_a_run_did_not_come_to_its_end(tmp_path: Path, exit_code: int | None, words: str) -> None:
    run = Record(tmp_path / "record")
    run.target()
    run.ran("boot.cpu-count", Verdict.PASS)
    matrix = build(load(run.close() if exit_code is None else run.end(exit_code)), CONTRACT)
    assert f"was {words}" in html.render(matrix)
    assert f"**{words}**" in markdown.render(matrix)


def test_the_pages_of_a_complete_run_say_nothing_of_its_end(tmp_path: Path) -> None:
    run = Record(tmp_path / "record")
    run.target()
    run.ran("boot.cpu-count", Verdict.FAIL)
    matrix = build(load(run.end(1)), CONTRACT)
    assert "before its end" not in html.render(matrix) + markdown.render(matrix)


def test_a_huge_attachment_is_cut_and_its_end_kept(tmp_path: Path) -> None:
    run = Record(tmp_path / "record")
    run.target()
    item = run.plan("boot.cpu-count")
    run.start(item)
    run.attach(item, "console", "<&>" * 3_500_000 + "the last words")
    run.finish(item, Verdict.FAIL, "no")
    history = load(run.end())
    document = html.render(build(history, CONTRACT), {"r1": history})
    assert len(document) < 1_000_000
    assert "the last words" in document


def test_many_huge_attachments_do_not_grow_the_page_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html, "_ATTACHED", 100_000)
    run = Record(tmp_path / "record")
    run.target()
    item = run.plan("boot.cpu-count")
    run.start(item)
    for number in range(4):
        run.attach(item, f"console {number}", "x" * 40_000)
    run.finish(item, Verdict.FAIL, "no")
    history = load(run.end())
    text = Page(html.render(build(history, CONTRACT), {"r1": history})).text
    assert text.count("x" * 40_000) == 2
    assert "Left out here and kept in the record: “console 2” and “console 3”" in text


def test_bytes_that_are_no_utf8_do_not_stop_a_report(folder: Path, tmp_path: Path) -> None:
    path = folder / "gw0.jsonl"
    path.write_bytes(path.read_bytes().replace(b"2 asked for", b"2 asked \xff\xfe"))
    reports.write_all(folder, tmp_path / "out", CONTRACT)
    assert "3 CPUs, 2 asked \ufffd\ufffd" in (tmp_path / "out" / "matrix.md").read_text(encoding="utf-8")


def test_markdown_lists_what_failed_and_collapses_provenances(matrix: Matrix) -> None:
    text = markdown.render(matrix)
    assert "| boot.cpu-count | **must** | **✗ fail (1/2: migrated)** | ✓ pass |" in text
    assert "- **boot.cpu-count** · kvm · migrated — 3 CPUs, 2 asked for" in text
    assert "| kvm | nested (TCG) | QEMU 7.2.11, tcg |" in text
    assert "| 0 of 3 (1 undecided) | 2 fail · 1 flaky · 1 lab-error · 1 pass · 1 not-claimed |" in text
    assert "Residue left on the hosts (1)" in text
    assert "<script" not in text


def test_markdown_tables_keep_their_columns(matrix: Matrix) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", markdown.render(matrix), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_csv_has_a_line_for_every_cell(matrix: Matrix) -> None:
    rows = list(csv.DictReader(io.StringIO(table.render(matrix))))
    assert len(rows) == len(matrix.cells)
    (row,) = [row for row in rows if row["provenance"] == "migrated"]
    assert (row["verdict"], row["evidence"], row["level"]) == ("fail", "nested", "must")
    assert not any(value.startswith(("=", "+", "-", "@")) for row in rows for value in row.values())


def test_junit_counts_each_kind_of_verdict(matrix: Matrix, folder: Path) -> None:
    root = ElementTree.fromstring(junit.render(matrix, {"r1": load(folder)}))
    kvm, sim = root
    assert [kvm.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["6", "3", "1", "1"]
    assert [sim.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["5", "0", "0", "0"]
    for suite in root:
        cases = suite.findall("testcase")
        assert len(cases) == int(suite.get("tests", ""))
        for kind, count in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert len(suite.findall(f"testcase/{kind}")) == int(suite.get(count, ""))
    properties = {item.get("name"): item.get("value") for item in kvm.findall("properties/property")}
    assert (properties["evidence"], properties["fact.version"]) == ("nested", "7.2.11")


def test_junit_gives_reasons(matrix: Matrix) -> None:
    root = ElementTree.fromstring(junit.render(matrix))
    skipped = root.find(".//testcase[@name='pause.freezes-vcpus[booted]']/skipped")
    assert skipped is not None
    assert skipped.get("message") == "not-claimed: Unsupported: pause is not supported"
    died = root.find(".//testcase[@name='time.drift[booted]']/error")
    assert died is not None
    assert died.get("message") == "the worker gw0 died during this test"


def shown(matrix: Matrix, *, tty: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=tty, width=80, color_system="standard" if tty else None)
    terminal.show(matrix, console, [Path("/out/matrix.html")])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_summary_is_plain_lines_when_it_is_no_terminal(matrix: Matrix) -> None:
    text = shown(matrix, tty=False)
    assert "\x1b" not in text
    assert "fail: boot.cpu-count · kvm · migrated: 3 CPUs, 2 asked for\n" in text
    assert "lab-error: time.drift · kvm · booted: the worker gw0 died during this test\n" in text
    assert text.endswith("report: /out/matrix.html\n")


def test_the_terminal_summary_shows_numbers_with_their_evidence(matrix: Matrix) -> None:
    text = re.sub(r"\x1b\[[\d;]*m", "", shown(matrix, tty=True))
    assert re.search(r"kvm  \[nested\].*0 of 3 requirements kept, 1 undecided", text, re.DOTALL)
    assert re.search(r"cells +2 +1 +1 +1 +1", text)
    assert "\x1b" not in text
    assert "alert(1)" in text


def test_write_all_writes_every_report(folder: Path, tmp_path: Path) -> None:
    paths = reports.write_all(folder, tmp_path / "out", CONTRACT)
    names = ["matrix.json", "matrix.md", "matrix.html", "matrix.csv", "junit.xml"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert json.loads(paths[0].read_text(encoding="utf-8"))["schema_version"] == 1


def test_write_all_says_where_it_cannot_write(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot be written to"):
        reports.write_all(folder, tmp_path / "file", CONTRACT)


def test_every_report_says_what_the_evidence_rests_on(tmp_path: Path) -> None:
    """Such as that a hypervisor was rebuilt, which its version does not tell."""
    run = Record(tmp_path / "run" / "record")
    run.target("xen", note="Xen rebuilt")
    run.ran("boot.cpu-count", Verdict.PASS, target="xen")
    folder = run.end().parent

    written = reports.write_all(folder / "record", tmp_path / "out", CONTRACT)

    told = {path.name: path.read_text(encoding="utf-8") for path in written}
    matrix = build(load(folder / "record"), CONTRACT)
    told |= {f"terminal {tty}": shown(matrix, tty=tty) for tty in (True, False)}
    assert [name for name, text in told.items() if "Xen rebuilt" not in text] == []


def test_several_runs_make_one_matrix(folder: Path, tmp_path: Path) -> None:
    other = Record(tmp_path / "other" / "record", "r2", began=1_800_000_000.0)
    other.target("xen")
    other.ran("boot.cpu-count", Verdict.PASS, target="xen")
    reports.write_runs([folder, other.end().parent], tmp_path / "out", CONTRACT)
    document = json.loads((tmp_path / "out" / "matrix.json").read_text(encoding="utf-8"))
    assert [target["target"] for target in document["targets"]] == ["kvm", "sim", "xen"]
    assert {cell["target"]: cell["run"] for cell in document["cells"]} == {"kvm": "r1", "sim": "r1", "xen": "r2"}
