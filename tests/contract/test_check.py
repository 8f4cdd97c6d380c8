"""The check of tests against the contract: each rule is broken once by a made-up suite and must say so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import conformance.contract
from conformance.contract import load, read
from conformance.contract.check import (
    NOT_WRITTEN,
    UNCOVERED,
    Uncovered,
    check,
    coverage,
    find_tests,
    suites_folder,
    uncovered,
    uncovered_toml,
)

CONTRACT = """
version = "0.1"
[[area]]
name = "reboot"
title = "Reboot"
"""
REQUIREMENTS = "".join(
    f"""
[[requirement]]
id = "reboot.{name}"
statement = "It holds."
level = "{level}"
tier = 1
since = "1.0"
observers = ["guest"]
"""
    for name, level in (("exactly-once", "must"), ("loop-stable", "should"))
)
GOOD = """
import pytest

@pytest.mark.requirement("reboot.exactly-once")
def test_reboot_exactly_once():
    assert True
"""
PUBLISHED = '[[uncovered]]\nid = "reboot.loop-stable"\nreason = "needs a day"\nsince = "0.1"\n'


class Made:
    """A small contract and a made-up suite that keeps every rule until a test breaks one."""

    def __init__(self, folder: Path) -> None:
        self.contract = folder / "contract"
        self.suites = folder / "suites"
        (self.contract / "requirements").mkdir(parents=True)
        self.suites.mkdir()
        (self.contract / "contract.toml").write_text(CONTRACT)
        (self.contract / "requirements" / "reboot.toml").write_text(REQUIREMENTS)
        self.published(PUBLISHED)
        self.suite(GOOD)

    def suite(self, source: str, name: str = "test_reboot.py") -> None:
        (self.suites / name).write_text(source)

    def published(self, text: str) -> None:
        (self.contract / UNCOVERED).write_text(text)

    def problems(self) -> list[str]:
        return [str(problem) for problem in check(self.suites, self.contract)]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_no_problem_where_every_rule_is_kept(made: Made) -> None:
    assert made.problems() == []


def test_an_unknown_id_is_found_and_the_nearest_named(made: Made) -> None:
    made.suite(GOOD + GOOD.replace("exactly-once", "exactly-onc"))

    assert made.problems() == [
        "suites/test_reboot.py:11: unknown requirement 'reboot.exactly-onc'; did you mean reboot.exactly-once?"
    ]


def test_a_requirement_tested_twice_is_found(made: Made) -> None:
    made.suite(GOOD, "test_again.py")

    assert made.problems() == [
        "suites/test_reboot.py:5: reboot.exactly-once is tested already by test_reboot_exactly_once "
        "(suites/test_again.py:5)"
    ]


def test_a_must_without_a_test_is_found(made: Made) -> None:
    made.suite("")

    assert made.problems() == ["reboot.toml: reboot.exactly-once (must) has no test and is not in uncovered.toml"]


def test_a_should_without_a_test_has_to_be_published_too(made: Made) -> None:
    made.published("")

    assert made.problems() == ["reboot.toml: reboot.loop-stable (should) has no test and is not in uncovered.toml"]


def test_a_missing_list_is_an_empty_one(made: Made) -> None:
    (made.contract / UNCOVERED).unlink()

    assert made.problems() == ["reboot.toml: reboot.loop-stable (should) has no test and is not in uncovered.toml"]


def test_a_published_one_that_has_a_test_by_now_is_found(made: Made) -> None:
    made.published(PUBLISHED + PUBLISHED.replace("loop-stable", "exactly-once"))

    assert made.problems() == [
        "uncovered.toml: reboot.exactly-once has a test by now (suites/test_reboot.py:5); take it off the list"
    ]


def test_a_published_one_that_does_not_exist_is_found(made: Made) -> None:
    made.published(PUBLISHED + PUBLISHED.replace("loop-stable", "loop-stabel"))

    assert made.problems() == [
        "uncovered.toml: unknown requirement 'reboot.loop-stabel'; did you mean reboot.loop-stable?"
    ]


def test_a_requirement_published_twice_is_found(made: Made) -> None:
    made.published(PUBLISHED * 2)

    assert made.problems() == ["uncovered.toml: reboot.loop-stable is listed twice"]


def test_a_published_one_without_a_reason_is_found(made: Made) -> None:
    made.published(PUBLISHED.replace("needs a day", " "))

    assert made.problems() == ["uncovered.toml: reboot.loop-stable has no reason"]


def test_a_malformed_list_is_one_problem(made: Made) -> None:
    made.published(PUBLISHED.replace("reason", "raeson"))

    assert len(made.problems()) == 1
    assert "raeson" in made.problems()[0]


@pytest.mark.parametrize("name", ["test_reboot_exactly_onec", "test_exactly_once", "test_reboot"])
def test_a_name_that_does_not_follow_the_id_is_found(made: Made, name: str) -> None:
    made.suite(GOOD.replace("test_reboot_exactly_once", name))

    assert made.problems() == [
        f"suites/test_reboot.py:5: the test of reboot.exactly-once is called test_reboot_exactly_once, not {name}"
    ]


@pytest.mark.parametrize(
    ("suite", "line"),
    [
        (GOOD + "pytestmark = pytest.mark.steady\n", 5),
        (GOOD + "pytestmark = [pytest.mark.lab, pytest.mark.steady]\n", 5),
        (GOOD.replace("@", "@pytest.mark.steady\n@"), 6),
    ],
)
def test_a_steady_test_of_what_is_not_steady_is_found(made: Made, suite: str, line: int) -> None:
    made.suite(suite)

    assert made.problems() == [
        f"suites/test_reboot.py:{line}: test_reboot_exactly_once is run on every provenance, "
        "but reboot.exactly-once is not steady"
    ]


def test_another_module_mark_is_not_steady(made: Made) -> None:
    made.suite(GOOD + "pytestmark = pytest.mark.lab\n")

    assert made.problems() == []


def test_a_test_without_a_requirement_is_found(made: Made) -> None:
    made.suite(GOOD + "\ndef test_something(): ...\n")

    assert made.problems() == [
        "suites/test_reboot.py:8: test_something says no requirement; mark it with @pytest.mark.requirement(id)"
    ]


def test_an_id_that_is_no_literal_is_found(made: Made) -> None:
    made.suite(GOOD + GOOD.replace('"reboot.exactly-once"', "ID").replace("exactly_once", "other"))

    assert made.problems() == [
        "suites/test_reboot.py:11: test_reboot_other: write the id of the requirement as a literal"
    ]


def test_a_test_in_a_class_is_found(made: Made) -> None:
    lines = "".join(f"    {line}\n" for line in GOOD.replace("exactly", "never").splitlines()[2:])
    made.suite(f"import pytest\nclass TestReboot:\n{lines}{GOOD}")

    assert made.problems() == [
        "suites/test_reboot.py:5: unknown requirement 'reboot.never-once'; did you mean reboot.exactly-once?"
    ]


def test_a_mark_under_another_name_is_found(made: Made) -> None:
    made.suite(
        "import pytest\npromise = pytest.mark.requirement\n\n"
        '@promise("reboot.exactly-onc")\ndef test_reboot_exactly_onc(): ...\n' + GOOD
    )

    assert made.problems() == [
        "suites/test_reboot.py:5: unknown requirement 'reboot.exactly-onc'; did you mean reboot.exactly-once?"
    ]


def test_another_mark_is_no_requirement(made: Made) -> None:
    made.suite(GOOD.replace("mark.requirement", "mark.lab"))

    assert len(made.problems()) == 2


def test_a_suite_that_is_not_python_is_one_problem(made: Made) -> None:
    made.suite("def test_(:\n")

    assert [problem.split(": ")[0].endswith("test_reboot.py:1") for problem in made.problems()] == [True]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("loop-stable", "exactly-once", "is a duplicate"),
        ('"should"', '"conditional"', "a conditional requirement needs a capability"),
        ('"should"', '"should"\ncapability = "pauze"', "unknown capability 'pauze'"),
    ],
)
def test_a_malformed_contract_is_one_problem(made: Made, old: str, new: str, message: str) -> None:
    (made.contract / "requirements" / "reboot.toml").write_text(REQUIREMENTS.replace(old, new))

    (problem,) = made.problems()
    assert message in problem


def test_the_list_written_anew_keeps_reasons_and_mends_every_row(made: Made) -> None:
    published = [Uncovered("reboot.loop-stable", 'needs a "day"', "0.0"), Uncovered("reboot.gone", "gone", "0.0")]
    text = uncovered_toml(read(made.contract), coverage(find_tests(made.suites)), published)
    made.published(text)

    assert made.problems() == []
    assert uncovered(made.contract) == [Uncovered("reboot.loop-stable", 'needs a "day"', "0.0")]


def test_the_list_written_anew_says_so_of_what_is_new(made: Made) -> None:
    made.published(uncovered_toml(read(made.contract), {}, []))

    assert uncovered(made.contract) == [
        Uncovered("reboot.exactly-once", NOT_WRITTEN, "0.1"),
        Uncovered("reboot.loop-stable", NOT_WRITTEN, "0.1"),
    ]


def test_the_suites_and_the_contract_of_this_project_agree() -> None:
    folder = suites_folder()

    assert folder is not None
    assert [str(problem) for problem in check(folder)] == [], "run: hvconform contract check --update-uncovered"


def test_the_suites_are_found_without_being_imported(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.suite("raise RuntimeError('imported')\n" + GOOD)
    (made.suites / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(made.suites.parent)
    monkeypatch.delitem(__import__("sys").modules, "suites", raising=False)

    assert suites_folder() == made.suites
    assert made.problems() == []


def test_every_requirement_of_this_project_is_tested_or_published(tmp_path: Path) -> None:
    """Control: the agreement above is not there because nothing is looked at."""
    home = Path(conformance.contract.__file__).parent
    shutil.copytree(home / "requirements", tmp_path / "requirements")
    shutil.copy(home / "contract.toml", tmp_path)
    folder = suites_folder()
    assert folder is not None

    tested = coverage(find_tests(folder)).keys() & load().requirements.keys()
    assert len(check(folder, tmp_path)) == len(load().requirements) - len(tested)
