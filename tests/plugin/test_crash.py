"""A worker that dies costs the item that it ran, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from conformance.record import DriverCall, ItemStarted, RunFinished
from tests.plugin.conftest import Run

pytest_plugins = ["pytester"]

IDS = (
    "boot.correct-image",
    "boot.correct-root-device",
    "boot.retry-after-failure",
    "boot.network-before-run",
    "reboot.exactly-once",
    "reboot.soft-new-boot-id",
)


def suite(bodies: dict[int, str]) -> str:
    return "".join(
        f'@requirement("{id}")\ndef test_{number}(machine):\n    {bodies.get(number, "pass")}\n'
        for number, id in enumerate(IDS)
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["exit", "kill"])
def test_crash_is_a_lab_error_and_the_others_run_once(run: Callable[..., Run], workers: int, end: str) -> None:
    done = run(suite({2: end}), f"-n{workers}")

    assert done.verdicts() == {f"test_{n}": "lab-error" if n == 2 else "pass" for n in range(len(IDS))}
    starts = [event.item for event in done.events if isinstance(event, ItemStarted)]
    assert sorted(starts) == sorted(set(starts)), "something was started twice"
    assert done.code == 6


def test_run_ends_when_all_workers_crash(run: Callable[..., Run]) -> None:
    done = run(suite(dict.fromkeys(range(len(IDS)), "os._exit(3)")), "-n2")

    assert set(done.verdicts().values()) == {"lab-error"}
    assert len(done.verdicts()) == len(IDS)
    assert any(isinstance(event, RunFinished) for event in done.events)


def test_crashed_item_has_an_allure_result(run: Callable[..., Run], pytester: pytest.Pytester) -> None:
    done = run(suite({1: "os._exit(3)"}), "-n1", "--alluredir=allure", "--requirement=boot.*")

    results = [json.loads(path.read_text()) for path in (pytester.path / "allure").glob("*-result.json")]
    by_name = {result["fullName"].rpartition("#")[2]: result["status"] for result in results}
    assert by_name == {"test_0": "passed", "test_1": "broken", "test_2": "passed", "test_3": "passed"}
    assert len({result["historyId"] for result in results}) == len(results)
    assert done.code == 6


def test_maxfail_ends_the_run(run: Callable[..., Run]) -> None:
    done = run(suite(dict.fromkeys(range(len(IDS)), "assert False")), "-n1", "--maxfail=1")

    assert 1 <= len(done.verdicts()) < len(IDS)
    assert done.code == 2 or done.code == 1


def test_crashed_workers_vms_are_swept(run: Callable[..., Run], pytester: pytest.Pytester) -> None:
    run(suite({2: "os._exit(3)"}), "-n1")

    assert not list((pytester.path / "state" / "ledgers").rglob("*.jsonl"))


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_an_interrupt_while_a_run_ends_does_not_keep_it_from_ending(run: Callable[..., Run], workers: str) -> None:
    late = "def pytest_sessionfinish():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGINT)\n"

    done = run(suite({}), workers, conftest=late)

    assert set(done.verdicts().values()) == {"pass"}
    assert any(isinstance(event, RunFinished) for event in done.events)
    assert (done.out / "matrix.json").exists()
    assert done.code == 0


INTERRUPTED = """
import os, signal

@pytest.fixture
def vm(steady):
    return steady(lambda machines: [machines.boot(), BUILDING])

@pytest.mark.steady
@pytest.mark.requirement("boot.cpu-count")
def test_shares(vm):
    USING
"""
INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize("when", ["BUILDING", "USING"])
def test_an_interrupted_run_leaves_no_steady_vm(run: Callable[..., Run], pytester: pytest.Pytester, when: str) -> None:
    tests = INTERRUPTED.replace(when, INTERRUPT).replace("BUILDING", "None").replace("USING", "pass")

    done = run(tests, "-n0", "--provenance=booted")

    assert done.code == 2
    deleted = [event.time for event in done.events if isinstance(event, DriverCall) and event.operation == "delete"]
    begun = max(event.time for event in done.events if isinstance(event, ItemStarted))
    assert deleted[-1] > begun
    assert not list((pytester.path / "state" / "ledgers").rglob("*.jsonl"))
    assert (done.out / "matrix.json").exists()


def test_fixtures_that_fail_in_an_interrupted_run_keep_no_report_from_being_written(run: Callable[..., Run]) -> None:
    tests = """
@pytest.fixture
def failing():
    yield
    raise ValueError("as it ends")

@pytest.mark.requirement("boot.correct-image")
def test_interrupted(machine, failing):
    import os, signal
    os.kill(os.getpid(), signal.SIGINT)
"""
    done = run(tests, "-n0")

    assert any(isinstance(event, RunFinished) for event in done.events)
    assert (done.out / "matrix.json").exists()
