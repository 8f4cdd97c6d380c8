"""`hvconform contract`: what it prints, and its exit codes (0 good, 1 problems, 2 wrong use)."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from conformance.contract import cli as module
from conformance.contract import load
from conformance.contract.cli import contract

SUITE = """
import pytest

@pytest.mark.requirement("time.monotonic")
def test_time_monotonic(): ...
"""


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    folder = tmp_path / "suites"
    folder.mkdir()
    (folder / "test_time.py").write_text(SUITE)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(contract, [str(argument) for argument in arguments])


def ids(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.split()[0] for line in result.stdout.splitlines()]


def test_list_shows_everything() -> None:
    assert ids(run("list")) == list(load().requirements)


def test_list_by_area_level_and_tier() -> None:
    assert ids(run("list", "--area", "time")) == [
        "time.wall-at-boot",
        "time.monotonic",
        "time.drift",
        "time.rtc-persists",
    ]
    assert ids(run("list", "--area", "time", "--level", "should")) == ["time.drift", "time.rtc-persists"]
    assert len(ids(run("list", "--tier", 1))) == 201


def test_list_by_coverage(suites: Path) -> None:
    assert ids(run("list", "--covered", "--suites", suites)) == ["time.monotonic"]
    assert len(ids(run("list", "--uncovered", "--suites", suites))) == len(load().requirements) - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--area", "tim"], "no area is called 'tim'; there are: suite, capability"),
        (["list", "--level", "may"], "'may' is not one of"),
        (["list", "--suites", "/nowhere"], "does not exist"),
        (["show", "time.monotonous"], "unknown requirement 'time.monotonous'; did you mean time.monotonic"),
        (["chek"], "No such command 'chek'"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_show_has_the_sentence_the_tests_and_the_defects(suites: Path) -> None:
    result = run("show", "time.monotonic", "--suites", suites)
    assert result.exit_code == 0
    assert load().get("time.monotonic").statement in result.stdout
    assert "suites/test_time.py:5 test_time_monotonic" in result.stdout

    result = run("show", "mig.never-two", "--suites", suites)
    assert "mig-monitor-lost-job-runs-on" in result.stdout
    assert "none yet" in result.stdout
    assert "migrate.live" in result.stdout


def test_check_prints_one_line_a_problem_and_exits_with_1(suites: Path) -> None:
    (suites / "test_time.py").write_text(SUITE.replace("time.monotonic", "time.monotonous"))
    result = run("check", "--suites", suites)

    assert result.exit_code == 1
    assert "suites/test_time.py:5: unknown requirement 'time.monotonous'" in result.stdout
    assert all(": " in line for line in result.stdout.splitlines())


def test_check_can_write_the_list_anew(suites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOME", tmp_path)
    run("check", "--update-uncovered", "--suites", suites)

    text = (tmp_path / "uncovered.toml").read_text()
    assert text.count("[[uncovered]]") == len(load().requirements) - 1
    assert '"time.monotonic"' not in text


def test_a_suite_that_is_not_python_is_exit_code_1(suites: Path) -> None:
    (suites / "test_time.py").write_text("def (")

    for arguments in (["check"], ["list"], ["doc"]):
        result = run(*arguments, "--suites", suites)
        assert result.exit_code == 1, arguments
        assert "is not Python" in result.output


def test_doc_names_every_requirement(suites: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "contract.md"
    assert run("doc", "--out", out, "--suites", suites).exit_code == 0

    page = out.read_text()
    assert [id for id in load().requirements if f"| `{id}` |" not in page] == []
    assert f"| all | {len(load().requirements)} | 1 | {len(load().requirements) - 1} |" in page
    assert "[test_time_monotonic](../suites/test_time.py) |" in page
    assert run("doc", "--suites", suites).stdout == page


def test_doc_says_what_is_tested_on_every_provenance(suites: Path) -> None:
    steady = len(load().steady)
    assert f"| steady, on every provenance | {steady} | 0 | {steady} |" in run("doc", "--suites", suites).stdout

    (suites / "test_time.py").write_text(f"{SUITE}\npytestmark = pytest.mark.steady\n")
    page = run("doc", "--suites", suites).stdout
    assert f"| steady, on every provenance | {steady} | 1 | {steady - 1} |" in page
    assert "[test_time_monotonic](../suites/test_time.py), on every provenance |" in page


def test_the_page_in_docs_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "contract.md"

    assert page.read_text() == run("doc").stdout, "run: hvconform contract doc --out docs/contract.md"
