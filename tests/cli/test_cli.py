"""The commands: what they print, and the exit code that they promise."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.cli.progress import Progress, line
from conformance.errors import LabError
from conformance.paths import make_run_folder
from conformance.record import ItemFinished, ItemPlanned, ItemStarted, Recorder, Verdict
from conformance.waiting import until

ONE = """
import pytest
@pytest.mark.requirement("boot.correct-image")
def test_boots(machine):
    BODY
"""


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HVCONFORM_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    path = tmp_path / "test_one.py"
    path.write_text(ONE.replace("BODY", "pass"))
    return path


def hvconform(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from conformance.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_run_writes_everything(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = hvconform("run", "--lab", "simulated", "--target", "simulated", "--suites", suite, "--out", out)

    assert done.returncode == 0, done.stderr
    assert re.search(r"^pass +boot.correct-image  simulated  \d", done.stdout, re.MULTILINE)
    assert {path.name for path in out.iterdir()} >= {"record", "matrix.json", "matrix.html", "junit.xml"}
    assert list((out / "allure-results").glob("*-result.json"))
    again = hvconform("run", "--lab", "simulated", "--target", "simulated", "--suites", suite, "--out", out)
    assert again.returncode == 0
    (kept,) = tmp_path.glob("out-*")
    assert f"the earlier run is in {kept}\n" in again.stdout
    assert (kept / "matrix.json").exists()
    assert (out / "matrix.json").exists()
    shown = hvconform("matrix", out)
    assert shown.returncode == 0
    assert "1 pass" in shown.stdout


def test_runs_that_start_in_the_same_second_have_a_folder_each(tmp_path: Path) -> None:
    folders = [make_run_folder(tmp_path / "results", "today") for _ in range(3)]

    assert [folder.name for folder in folders] == ["today", "today-2", "today-3"]
    assert all(folder.is_dir() for folder in folders)


def test_a_folder_for_results_that_cannot_be_made_is_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "results").touch()

    with pytest.raises(LabError, match="results/today cannot be made: Not a directory") as caught:
        make_run_folder(tmp_path / "results", "today")
    assert "--out" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "code"),
    [("assert False", 1), ("raise __import__('conformance.errors').errors.LabError('broken')", 6)],
    ids=["fail", "lab-error"],
)
def test_exit_code_of_a_run(suite: Path, tmp_path: Path, body: str, code: int) -> None:
    suite.write_text(ONE.replace("BODY", body))

    done = hvconform("run", "--lab", "simulated", "--target=simulated", "--suites", suite, "--out", tmp_path / "out")

    assert done.returncode == code


SILENT = """
from conformance.errors import GuestSilent
from labs.simulated import observers

class Silent:
    def ask(self, line, timeout_s):
        raise GuestSilent("nobody answers")
    def close(self):
        pass

observers.SimulatedObservers.network_channel = lambda *_: Silent()
"""

AND_MORE = "".join(
    f"""
@pytest.mark.requirement("{requirement}")
def test_{number}(machine):
    pass
"""
    for number, requirement in enumerate(["boot.reaches-userspace", "boot.correct-root-device", "reboot.exactly-once"])
)


def test_guest_that_never_answers_is_said_once(suite: Path, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(SILENT)
    suite.write_text(suite.read_text() + AND_MORE)

    done = hvconform("run", "--lab", "simulated", "--target=simulated", "--suites", suite, "--out", tmp_path / "out")

    assert done.returncode == 1
    assert done.stderr.count("no guest of simulated was up before the first test") == 1
    assert "try: look at a failed test's console" in done.stderr
    # nor is each waited for as long as the first: a whole run would take hours
    waited = [float(seconds) for seconds in re.findall(r"^fail .*waited ([\d.]+) s", done.stdout, re.MULTILINE)]
    assert sorted(waited, reverse=True) == [60, 30, 15, 15]
    assert not list((tmp_path / "state" / "ledgers").rglob("*.jsonl")), "something was left on the hosts"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--lab", "simulatd"], 6, "no lab 'simulatd'; did you mean simulated?"),
        (["run", "--lab", "nowhere.toml"], 6, "no lab file nowhere.toml"),
        (["run", "--lab", "simulated", "--area", "bot"], 4, "no area 'bot'"),
        (["run", "--lab", "simulated", "--requirement", "bot.*"], 4, "and 303 more"),
        (["run", "--lab", "simulated", "--lease-url", "redis://127.0.0.1:1"], 6, "redis://127.0.0.1:1 cannot be used"),
        (["run", "--lab", "simulated", "-n", "many"], 4, "neither a number nor auto"),
        (["run", "--lab", "simulated", "--out", "/proc/nowhere"], 6, "cannot be written"),
        (["lab", "up", "simulatd"], 6, "unknown kind of lab 'simulatd'; did you mean simulated?"),
        (["matrix", "/"], 6, "holds no run record"),
        (["nonsense"], 4, "No such command"),
    ],
)
def test_wrong_input_is_one_message(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = hvconform(*arguments, *(["--suites", str(suite)] if arguments[0] == "run" else []))

    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("start", [None, _ignore_interrupts], ids=["foreground", "background"])
def test_interrupted_run_keeps_what_had_run_and_cleans_up(
    suite: Path, tmp_path: Path, end: signal.Signals, code: int, start: Callable[[], None] | None
) -> None:
    """Also where a script started it in the background, which ignores Ctrl-C until somebody asks for it."""
    suite.write_text(
        ONE.replace("BODY", "pass")
        + '\n@pytest.mark.requirement("reboot.exactly-once")\n'
        + "def test_waits(machine):\n    __import__('threading').Event().wait(60)\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from conformance.cli import main; main()", "run", "--lab", "simulated"]
    process = subprocess.Popen(
        [*command, "--target=simulated", "--suites", str(suite), "--out", str(out)], preexec_fn=start
    )
    record = out / "record" / "controller.jsonl"
    try:
        until(
            "the second test to start",
            lambda: record.exists() and re.search(r'"started".*test_waits', record.read_text()),
            seconds=60,
        )
        process.send_signal(end)
        assert process.wait(60) == code
    finally:
        process.kill()
        process.wait()

    until("the reports", (out / "matrix.json").exists, seconds=60)
    cells = json.loads((out / "matrix.json").read_text())["cells"]
    assert {cell["requirement"]: cell["verdict"] for cell in cells}["boot.correct-image"] == "pass"
    said = {cell["requirement"]: cell["message"] for cell in cells}["reboot.exactly-once"]
    assert said == "the run was interrupted during this test"
    assert not list((tmp_path / "state" / "ledgers").rglob("*.jsonl"))


def test_lab_commands(suite: Path) -> None:  # noqa: ARG001 - for the state folder
    assert "simulated-0 is up" in hvconform("lab", "up", "simulated").stdout
    assert "simulated-0: up" in hvconform("lab", "status", "simulated").stdout
    rebuilt = hvconform("lab", "rebuild", "simulated").stdout
    assert rebuilt.index("simulated-0 is down") < rebuilt.index("simulated-0 is up")
    assert "simulated-0 is down" in hvconform("lab", "down", "simulated").stdout
    assert hvconform("sweep").returncode == 0


def test_schema_is_json() -> None:
    for what in ("record", "matrix"):
        assert "$schema" in json.loads(hvconform("schema", what).stdout)


def test_nested_lab_needs_root(suite: Path) -> None:  # noqa: ARG001
    if os.geteuid() != 0:
        done = hvconform("lab", "up", "kvm")
        assert done.returncode == 6
        assert "needs root" in done.stderr


def finished(item: str, verdict: Verdict = Verdict.PASS) -> ItemFinished:
    return ItemFinished(
        item=item, requirement=item, target="t", provenance="", verdict=verdict, seconds=4.0, message="why\x1b[2J",
        detail="", refusal="",
    )  # fmt: skip


def test_progress_counts_and_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HVCONFORM_STATE", str(tmp_path / "state"))
    recorder = Recorder(tmp_path / "record", "gw0")
    progress = Progress(tmp_path)
    assert progress.remaining_s() is None
    for item in "abc":
        recorder.write(ItemPlanned(item=item, requirement=item, target="t", provenance=""))
    recorder.write(ItemStarted(item="a", worker="gw0"))
    assert not progress.look()
    assert progress.running["gw0"][0] == "a"

    recorder.write(finished("a"))

    assert [event["item"] for event in progress.look()] == ["a"]
    assert not progress.running
    assert progress.remaining_s() == 8.0
    progress.save_durations()
    assert Progress(tmp_path)._known == {"a": 4.0}
    recorder.close()


def test_line_of_a_failure_cannot_drive_the_terminal() -> None:
    text = line(finished("a", Verdict.FAIL).model_dump(mode="json"))

    assert text.startswith("fail         a  t  4.0 s  why")
    assert "\x1b" not in text
