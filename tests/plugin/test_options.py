"""What is asked for on the command line is what is run, and a wrong word is one clear message."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.plugin.conftest import Run

pytest_plugins = ["pytester"]

THREE = """
@requirement("boot.correct-image")
def test_must(): pass

@requirement("mig.same-boot")
def test_conditional(): pass

@requirement("reboot.exactly-once")
def test_reboot(): pass

def test_without_a_requirement(): pass
"""


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        (["--area=boot"], {"test_must"}),
        (["--area=boot,reboot"], {"test_must", "test_reboot"}),
        (["--requirement=*boot.*"], {"test_must", "test_reboot"}),
        (["--profile=core"], {"test_must", "test_reboot"}),
        (["--profile=extended"], {"test_must", "test_conditional", "test_reboot"}),
    ],
    ids=["area", "areas", "glob", "core", "extended"],
)
def test_selection(run: Callable[..., Run], arguments: list[str], ran: set[str]) -> None:
    assert set(run(THREE, *arguments).verdicts()) == ran


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--area=bot", "--area: no area 'bot'; did you mean"),
        ("--requirement=boot.corect-image", "did you mean boot.correct-image"),
        ("--profile=cor", "--profile: no profile 'cor'; did you mean core?"),
        ("--target=simulatd", "has no target 'simulatd'; did you mean simulated"),
        ("--provenance=migratd", "--provenance: no provenance 'migratd'; did you mean migrated"),
    ],
)
def test_wrong_word(run: Callable[..., Run], argument: str, message: str) -> None:
    done = run(THREE, argument)

    assert done.code == 4
    assert message in done.result.stderr.str() + done.result.stdout.str()


def test_without_out_results_are_in_a_folder_named_after_the_time(
    run: Callable[..., Run], pytester: pytest.Pytester
) -> None:
    run(THREE)

    pytester.runpytest_subprocess("--lab=simulated", "--target=simulated", "--area=boot", timeout=120)

    (folder,) = (pytester.path / "results").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}", folder.name)
    assert (folder / "matrix.json").exists()


def test_nothing_selected(run: Callable[..., Run]) -> None:
    done = run('@requirement("boot.correct-image")\ndef test_it(): pass\n', "--area=reboot")

    assert done.code == 5


def test_unknown_requirement_in_a_mark(run: Callable[..., Run]) -> None:
    done = run('@requirement("boot.corect-image")\ndef test_it(): pass\n')

    assert done.code == 2
    assert "did you mean boot.correct-image" in done.result.stdout.str()


@pytest.mark.parametrize("mark", ["skip", "skipif(True, reason='x')", "xfail"])
def test_marks_that_hide(run: Callable[..., Run], mark: str) -> None:
    done = run(f'@pytest.mark.{mark}\n@requirement("boot.correct-image")\ndef test_it(): pass\n')

    assert done.code == 4
    assert "a skip is a claim that nobody checks" in done.result.stderr.str() + done.result.stdout.str()


def test_unreachable_driver_stops_the_run_with_one_message(run: Callable[..., Run]) -> None:
    done = run(
        THREE,
        conftest="""
class Gone(SimulatedDriver):
    @classmethod
    def connect(cls, lab, target):
        raise HostUnreachable("no answer from 192.0.2.1", operation="connect", host="a")
labs.driver_class = lambda name: Gone
""",
    )

    assert done.code == 6
    assert "HostUnreachable: no answer from 192.0.2.1" in done.result.stderr.str()
    assert "Traceback" not in done.result.stderr.str() + done.result.stdout.str()


def test_inert_without_a_lab(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(request): assert 'machine' not in dir(request)\ndef test_no(machine): pass\n")

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'machine' not found*"])
