"""Allure's results are completed from the record: nothing that was planned is missing from them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import reports
from conformance.errors import LabError
from conformance.record import ItemPlanned, Verdict
from reports import allure
from reports.history import load
from reports.matrix import build
from tests.reports.records import CONTRACT, Record


def completed(run: Record, results: Path) -> list[dict[str, Any]]:
    return again(run.end(), results)


def again(folder: Path, results: Path) -> list[dict[str, Any]]:
    history = load(folder)
    allure.complete(results, build(history, CONTRACT), history)
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*-result.json"))]


@pytest.fixture
def run(tmp_path: Path) -> Record:
    run = Record(tmp_path / "record")
    run.target()
    return run


def labels(result: dict[str, Any]) -> dict[str, str]:
    return {label["name"]: label["value"] for label in result["labels"]}


def test_a_crashed_test_gets_a_result_with_its_calls_and_attachments(run: Record, tmp_path: Path) -> None:
    item = run.plan("boot.cpu-count")
    run.start(item)
    run.call(item, "create", 1.0, error="Busy: not now")
    run.attach(item, "console", "\x1b[1mpanic")
    (result,) = completed(run, tmp_path / "results")
    assert result["status"] == "broken"
    assert result["statusDetails"]["message"] == "lab-error: the worker gw0 died during this test"
    assert labels(result).items() >= {"epic": "kvm", "feature": "boot", "story": "boot.cpu-count"}.items()
    assert result["steps"][0]["name"] == "create(vm=a) · 1.00 s"
    assert result["steps"][0]["statusDetails"]["message"] == "Busy: not now"
    (attachment,) = result["attachments"]
    assert (tmp_path / "results" / attachment["source"]).read_text() == "panic"


def test_a_test_that_has_a_result_keeps_it(run: Record, tmp_path: Path) -> None:
    run.ran("boot.cpu-count", Verdict.PASS)
    run.plan("boot.memory-size", test="test_memory")
    theirs = {
        "uuid": "u",
        "fullName": "suites.test_x#test",
        "status": "passed",
        "parameters": [{"name": "target", "value": "'kvm'"}, {"name": "provenance", "value": "'booted'"}],
        "labels": [{"name": "story", "value": "boot.cpu-count"}],
        "steps": [{"name": "theirs"}],
    }
    results = tmp_path / "results"
    results.mkdir()
    (results / "u-result.json").write_text(json.dumps(theirs))
    stories = sorted(labels(result)["story"] for result in completed(run, results))
    assert stories == ["boot.cpu-count", "boot.memory-size"]


def test_completing_twice_adds_nothing(run: Record, tmp_path: Path) -> None:
    run.plan("boot.cpu-count")
    run.plan("boot.cpu-count", provenance="migrated")
    assert len(completed(run, tmp_path / "results")) == 2
    assert len(again(run.folder, tmp_path / "results")) == 2


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (Verdict.NOT_CLAIMED, "skipped"),
        (Verdict.FAIL, "failed"),
        (Verdict.LAB_ERROR, "broken"),
        (Verdict.PASS, "passed"),
    ],
)
def test_a_result_says_what_the_record_says(run: Record, tmp_path: Path, verdict: Verdict, status: str) -> None:
    run.ran("boot.cpu-count", verdict, message="vnet3 was left")
    (tmp_path / "results").mkdir()
    theirs = {
        "fullName": "suites.test_x#test",
        "status": "passed",
        "statusDetails": {"trace": "the trace"},
        "parameters": [{"name": "target", "value": "'kvm'"}, {"name": "provenance", "value": "'booted'"}],
    }
    (tmp_path / "results" / "u-result.json").write_text(json.dumps(theirs))
    (result,) = completed(run, tmp_path / "results")
    assert result["status"] == status
    assert result["statusDetails"]["trace"] == "the trace"
    assert ("message" in result["statusDetails"]) == (status != "passed")


def test_writing_the_reports_completes_the_results_beside_the_record(run: Record, tmp_path: Path) -> None:
    run.plan("boot.cpu-count")
    (tmp_path / "allure-results").mkdir()
    reports.write_all(run.end(), tmp_path, CONTRACT)
    names = {path.name for path in (tmp_path / "allure-results").iterdir()}
    assert names > {"environment.properties", "categories.json", "executor.json"}


def test_half_a_result_is_made_anew(run: Record, tmp_path: Path) -> None:
    run.plan("boot.cpu-count")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "torn-result.json").write_text('{"uuid": "x", "fullN')
    (result,) = completed(run, tmp_path / "results")
    assert result["status"] == "skipped"


def test_the_history_id_is_the_one_that_allure_pytest_gives(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('provenance', ['booted'])\n"
        "@pytest.mark.parametrize('target', ['kvm'])\n"
        "def test(target, provenance): pass\n"
    )
    options = ["--rootdir=.", "--alluredir=theirs", "-p", "no:cacheprovider", "-p", "no:hvconform", "-q"]
    subprocess.run([sys.executable, "-m", "pytest", *options], cwd=tmp_path, check=True, capture_output=True)
    (path,) = (tmp_path / "theirs").glob("*-result.json")
    theirs = json.loads(path.read_text())
    run = Record(tmp_path / "record")
    run.target()
    run.write(ItemPlanned(item="test_x.py::test[kvm-booted]", requirement="zoo.x", target="kvm", provenance="booted"))
    (ours,) = completed(run, tmp_path / "ours")
    for name in ("historyId", "testCaseId", "fullName"):
        assert ours[name] == theirs[name], name
    assert {entry["name"]: entry["value"] for entry in ours["parameters"]} == {
        entry["name"]: entry["value"] for entry in theirs["parameters"]
    }


def test_the_environment_names_evidence_and_survives_odd_facts(run: Record, tmp_path: Path) -> None:
    run.target(facts={"a key: with=signs": "back\\slash\nand a line"})
    completed(run, tmp_path / "results")
    lines = (tmp_path / "results" / "environment.properties").read_text(encoding="utf-8").splitlines()
    assert "kvm.evidence = nested" in lines
    assert "kvm.a\\ key\\:\\ with\\=signs = back\\\\slash and a line" in lines


def test_categories_are_valid_for_a_browser_and_for_python(run: Record, tmp_path: Path) -> None:
    completed(run, tmp_path / "results")
    kinds = json.loads((tmp_path / "results" / "categories.json").read_text())
    assert "Lab or harness errors" in {kind["name"] for kind in kinds}
    assert not any("(?" in kind.get("messageRegex", "") for kind in kinds), "JavaScript has no inline flags"


def test_a_test_that_did_not_end_has_a_category(run: Record, tmp_path: Path) -> None:
    run.start(run.plan("boot.cpu-count"))
    (result,) = again(run.end(pytest.ExitCode.INTERRUPTED), tmp_path / "results")
    said = result["statusDetails"]["message"]
    found = [kind["name"] for kind in allure.categories() if re.match(str(kind.get("messageRegex", ".*")), said)]
    assert said == "lab-error: the run was interrupted during this test"
    assert found[0] == "Died, killed or interrupted"


def test_rendering_without_node_says_how_to_get_it(
    run: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.plan("boot.cpu-count")
    completed(run, tmp_path / "results")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="npx is not on the PATH") as caught:
        allure.render(tmp_path / "results", tmp_path / "report")
    assert "nodejs" in caught.value.hint


def test_rendering_leaves_a_folder_alone_that_is_no_report(run: Record, tmp_path: Path) -> None:
    run.plan("boot.cpu-count")
    completed(run, tmp_path / "results")
    with pytest.raises(LabError, match="something else"):
        allure.render(tmp_path / "results", run.folder)


def test_rendering_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="holds no Allure results"):
        allure.render(tmp_path, tmp_path / "report")


@pytest.mark.parametrize(("script", "message"), [("exit 3", "exit code 3: no"), ("exit 0", "made no report: no")])
def test_a_renderer_that_fails_is_quoted(
    run: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    run.plan("boot.cpu-count")
    completed(run, tmp_path / "results")
    npx = tmp_path / "bin" / "npx"
    npx.parent.mkdir()
    npx.write_text(f"#!/bin/sh\necho no >&2\n{script}\n")
    npx.chmod(0o755)
    monkeypatch.setenv("PATH", str(npx.parent))
    with pytest.raises(LabError, match=message):
        allure.render(tmp_path / "results", tmp_path / "report")
    assert not (tmp_path / "report").exists()
