"""The rules by which events become cells, each with the case in which it must not apply."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]

from conformance import record
from conformance.errors import LabError
from conformance.model import Evidence
from conformance.record import Verdict
from reports.history import load
from reports.matrix import Cell, Matrix, build, merge, schema
from tests.reports.records import CONTRACT, Record, Rule

PASS, FAIL, LAB_ERROR = Verdict.PASS, Verdict.FAIL, Verdict.LAB_ERROR


@pytest.fixture
def run(tmp_path: Path) -> Record:
    run = Record(tmp_path / "record")
    run.target()
    return run


def made(folder: Path, contract: tuple[Rule, ...] = CONTRACT) -> Matrix:
    return build(load(folder), contract)


def only(matrix: Matrix) -> Cell:
    (cell,) = matrix.cells
    return cell


def test_a_finished_item_becomes_a_cell_with_its_evidence(run: Record) -> None:
    run.ran("boot.cpu-count", PASS)
    cell = only(made(run.end()))
    assert (cell.requirement, cell.target, cell.provenance) == ("boot.cpu-count", "kvm", "booted")
    assert (cell.verdict, cell.evidence, cell.duration, cell.attempts) == (PASS, Evidence.NESTED, 1.5, 1)


def test_started_and_never_finished_is_a_lab_error(run: Record) -> None:
    run.start(run.plan("boot.cpu-count"), "gw1")
    cell = only(made(run.end()))
    assert cell.verdict is LAB_ERROR
    assert cell.message == "the worker gw1 died during this test"


def test_a_killed_run_blames_the_kill(run: Record) -> None:
    run.start(run.plan("boot.cpu-count"))
    run.plan("boot.memory-size")
    first, second = made(run.close()).cells
    assert (first.verdict, first.message) == (LAB_ERROR, "the run was killed during this test")
    assert (second.verdict, second.message) == (Verdict.NOT_RUN, "the run was killed before this test")


def test_an_interrupted_run_blames_no_worker(run: Record) -> None:
    run.start(run.plan("boot.cpu-count"), "gw1")
    run.plan("boot.memory-size")
    first, second = made(run.end(pytest.ExitCode.INTERRUPTED)).cells
    assert (first.verdict, first.message) == (LAB_ERROR, "the run was interrupted during this test")
    assert (second.verdict, second.message) == (Verdict.NOT_RUN, "the run was interrupted before this test")


def test_planned_and_never_started_is_not_run(run: Record) -> None:
    run.plan("boot.cpu-count")
    cell = only(made(run.end()))
    assert (cell.verdict, cell.attempts, cell.duration) == (Verdict.NOT_RUN, 0, 0)


@pytest.mark.parametrize(
    ("attempts", "verdict", "rate"),
    [
        ((FAIL, PASS), Verdict.FLAKY, "1 of 2"),
        ((PASS, FAIL, PASS), Verdict.FLAKY, "2 of 3"),
        ((FAIL, LAB_ERROR, PASS), Verdict.FLAKY, "1 of 2"),
        ((FAIL, FAIL), FAIL, ""),
        ((PASS, PASS), PASS, ""),
        ((LAB_ERROR, PASS), PASS, ""),
        ((LAB_ERROR, FAIL), FAIL, ""),
        ((FAIL, LAB_ERROR), FAIL, ""),
        ((LAB_ERROR, LAB_ERROR), LAB_ERROR, ""),
        ((Verdict.FLAKY,), Verdict.FLAKY, ""),
    ],
)
def test_attempts_of_one_item(run: Record, attempts: tuple[Verdict, ...], verdict: Verdict, rate: str) -> None:
    run.ran("boot.cpu-count", *attempts, message="3 CPUs")
    cell = only(made(run.end()))
    assert (cell.verdict, cell.rate, cell.attempts) == (verdict, rate, len(attempts))
    assert ("3 CPUs" in cell.message) == (verdict is not PASS)


def test_a_crash_and_then_a_pass_counts_both_attempts(run: Record) -> None:
    item = run.plan("boot.cpu-count")
    run.start(item, "gw0")
    run.start(item, "gw1")
    run.finish(item, PASS, worker="gw1")
    cell = only(made(run.end()))
    assert (cell.verdict, cell.attempts) == (PASS, 2)


def test_two_tests_of_one_requirement_must_both_hold_and_are_not_flaky(run: Record) -> None:
    run.ran("boot.cpu-count", PASS, test="test_soft")
    run.ran("boot.cpu-count", FAIL, test="test_hard", message="twice")
    cell = only(made(run.end()))
    assert (cell.verdict, cell.message, cell.rate) == (FAIL, "twice", "")
    assert len(cell.items) == 2


def test_rows_follow_the_contract_and_strangers_come_last(run: Record) -> None:
    for name in ("zoo.unheard-of", "pause.freezes-vcpus", "reboot.exactly-once"):
        run.ran(name, PASS)
    matrix = made(run.end())
    names = [cell.requirement for cell in matrix.cells]
    assert names == ["reboot.exactly-once", "pause.freezes-vcpus", "zoo.unheard-of"]
    assert matrix.requirements[-1].level == "unknown"
    assert matrix.untested == ["boot.cpu-count", "boot.memory-size", "time.drift"]


def test_provenances_stay_in_the_order_planned(run: Record) -> None:
    for provenance in ("booted", "rebooted", "migrated"):
        run.ran("boot.cpu-count", PASS, provenance=provenance)
    assert [cell.provenance for cell in made(run.end()).cells] == ["booted", "rebooted", "migrated"]


def test_totals_never_add_up_kinds_of_evidence(run: Record) -> None:
    run.target("sim", Evidence.SIMULATED)
    run.ran("boot.cpu-count", PASS, target="sim")
    run.ran("boot.cpu-count", FAIL)
    run.ran("boot.memory-size", PASS)
    totals = {(total.target, total.evidence): total for total in made(run.end()).totals}
    assert totals.keys() == {("kvm", Evidence.NESTED), ("sim", Evidence.SIMULATED)}
    kvm = totals["kvm", Evidence.NESTED]
    assert (kvm.cells, kvm.verdicts[PASS], kvm.verdicts[FAIL], kvm.verdicts[LAB_ERROR]) == (2, 1, 1, 0)


def test_a_target_that_never_answered_keeps_its_column(run: Record) -> None:
    run.ran("boot.cpu-count", LAB_ERROR, target="gone")
    matrix = made(run.end())
    assert [(target.target, target.evidence) for target in matrix.targets] == [("gone", "unknown"), ("kvm", "nested")]
    assert only(matrix).evidence == "unknown"


def test_the_boot_time_survives_a_worker_that_did_not_measure(run: Record) -> None:
    run.target(boot=None)
    assert made(run.end()).targets[0].boot_seconds == 2.1


def test_merge_joins_columns_and_each_cell_keeps_its_run(tmp_path: Path) -> None:
    old, new = Record(tmp_path / "a", "a"), Record(tmp_path / "b", "b", began=1_800_000_000.0)
    old.target("xen")
    old.ran("boot.cpu-count", FAIL, target="xen")
    new.target("kvm")
    new.ran("boot.cpu-count", PASS)
    matrix = merge([made(new.end()), made(old.end())])
    assert [(cell.target, cell.run) for cell in matrix.cells] == [("kvm", "b"), ("xen", "a")]
    assert [run.id for run in matrix.runs] == ["a", "b"]


def test_merge_takes_the_newer_run_of_a_target_whole(tmp_path: Path) -> None:
    old, new = Record(tmp_path / "a", "a"), Record(tmp_path / "b", "b", began=1_800_000_000.0)
    for run in (old, new):
        run.target()
    old.ran("boot.cpu-count", FAIL)
    old.ran("boot.memory-size", PASS)
    new.ran("boot.cpu-count", PASS)
    first, second = made(old.end()), made(new.end())
    for order in ([first, second], [second, first]):
        matrix = merge(order)
        assert [(cell.requirement, cell.verdict, cell.run) for cell in matrix.cells] == [("boot.cpu-count", PASS, "b")]
        assert "boot.memory-size" in matrix.untested
        assert [run.id for run in matrix.runs] == ["b"]


def test_merging_one_run_changes_nothing(run: Record) -> None:
    run.ran("boot.cpu-count", PASS)
    matrix = made(run.end())
    assert merge([matrix]) == matrix


def test_building_twice_gives_the_same_bytes(run: Record) -> None:
    for rule in reversed(CONTRACT):
        run.ran(rule.id, PASS)
    folder = run.end()
    assert made(folder).model_dump_json() == made(folder).model_dump_json()


def test_messages_lose_terminal_escapes_and_grow_no_further(run: Record) -> None:
    run.ran("boot.cpu-count", FAIL, message="\x1b[31mred\x1b[0m\n\x9b2J\u202ebell\x07 " + "x" * 1_000_000)
    message = only(made(run.end())).message
    assert message.startswith("red \ufffdbell\ufffd xxx")
    assert len(message) <= 2_000


def test_the_json_fits_the_published_schema_and_nothing_else_does(run: Record) -> None:
    run.ran("boot.cpu-count", FAIL, message="x")
    document = json.loads(made(run.end()).model_dump_json())
    validator = Draft202012Validator(schema())
    validator.validate(document)
    document["cells"][0]["verdict"] = "fine"
    with pytest.raises(ValidationError):
        validator.validate(document)


@pytest.mark.parametrize(("name", "current"), [("matrix", schema()), ("record", record.schema())])
def test_the_published_schemas_are_fresh(name: str, current: dict[str, object]) -> None:
    path = Path(__file__).parents[2] / "docs" / "schema" / f"{name}.json"
    assert json.loads(path.read_text(encoding="utf-8")) == current, "run: python -m reports.schemas"


def test_every_line_of_a_record_fits_its_schema(run: Record) -> None:
    run.call(run.ran("boot.cpu-count", PASS), "reboot", 0.2)
    validator = Draft202012Validator(record.schema())
    for path in run.end().glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            validator.validate(json.loads(line))


def test_the_record_is_found_below_the_out_folder(run: Record) -> None:
    folder = run.end()
    assert load(folder.parent).folder == folder


def test_no_record_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="holds no run record"):
        load(tmp_path)


def test_a_worker_file_alone_is_no_run(run: Record) -> None:
    run.ran("boot.cpu-count", PASS)
    folder = run.end()
    (folder / "controller.jsonl").unlink()
    with pytest.raises(LabError, match="has no beginning"):
        load(folder)
