"""`hvconform run`: the suites on a lab, with a live view; pytest does the work in a process of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import click

from conformance.cli import ownership
from conformance.cli.progress import Progress, follow
from conformance.cli.room import Room
from conformance.errors import LAB_BROKEN, LabError, MissingRequirement
from conformance.paths import TIME_IN_NAME, make_run_folder
from conformance.record import ItemFinished, TargetSeen, Verdict, read

HERE = Path(__file__).parent

_SILENT_S = 120
"""A record without an end that has not grown for so long is that of a killed run."""


@click.command()
@click.option(
    "--lab", "labs", multiple=True, required=True, metavar="NAME|FILE", help="Nested lab or lab file; repeat."
)
@click.option("--target", "targets", multiple=True, metavar="SLUG", help="Only this target; repeat.")
@click.option("-n", "workers", default="1", show_default=True, metavar="N|auto", help="Workers, each on its own lab.")
@click.option("--area", "areas", multiple=True, help="Only this area; repeat.")
@click.option("--requirement", "requirements", multiple=True, metavar="ID", help="Only these; globs are fine; repeat.")
@click.option("--profile", type=click.Choice(["core", "extended", "all"]), default="all", show_default=True)
@click.option("--provenance", "provenances", multiple=True, help="Steady checks only on VMs that came about so.")
@click.option("--out", type=click.Path(path_type=Path), help="Where everything goes; results/<time> by default.")
@click.option("--keep-lab", is_flag=True, help="Leave nested labs up.")
@click.option("--lease-url", metavar="URL", help="Coordinator of leases, as tooz takes it.")
@click.option("--suites", type=click.Path(exists=True, path_type=Path), help="Other tests than the installed suites.")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    context: click.Context,
    labs: tuple[str, ...],
    targets: tuple[str, ...],
    workers: str,
    areas: tuple[str, ...],
    requirements: tuple[str, ...],
    profile: str,
    provenances: tuple[str, ...],
    out: Path | None,
    keep_lab: bool,
    lease_url: str | None,
    suites: Path | None,
    pytest_arguments: tuple[str, ...],
) -> None:
    """Run the contract on a lab. What follows -- goes to pytest."""
    if workers != "auto" and not (workers.isdigit() and int(workers) > 0):
        raise click.BadParameter(f"{workers!r} is neither a number nor auto", param_hint="-n")
    if out:
        out = out.absolute()
        _set_aside(out)
        _make(out)
    else:
        out = make_run_folder(Path("results").absolute())
    tests = suites or _installed_suites()
    command = [sys.executable, "-m", "pytest", str(tests), "-c", str(HERE / "run.ini"), "--rootdir", str(_root(tests))]
    for option, values in (
        ("--lab", labs),
        ("--target", targets),
        ("--area", areas),
        ("--requirement", requirements),
        ("--provenance", provenances),
    ):
        for value in values:
            command += [option, value]
    command += ["--profile", profile, "--out", str(out), "--alluredir", str(out / "allure-results")]
    command += ["-n", workers] if workers != "1" else []
    command += ["--keep-lab"] if keep_lab else []
    command += ["--lease-url", lease_url] if lease_url else []
    try:
        code = _attend([*command, *pytest_arguments], out)
    finally:
        ownership.give_back(out)
    context.exit(code)


def _attend(command: list[str], out: Path) -> int:
    """Start pytest, show how it goes, and hand on the signals that end it."""
    with Room(out) as room, (out / "pytest.log").open("wb") as log, (out / "pytest.err").open("wb") as err:
        # a group of its own: Ctrl-C reaches it once, from us, and not a second time from the terminal
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=err,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_interrupted_with_parent,
        )

        def interrupt(_signal: int, _frame: FrameType | None) -> None:
            click.echo("interrupted: waiting for clean-up (again: at once)", err=True)
            os.killpg(process.pid, signal.SIGKILL if asked else signal.SIGINT)
            asked.append(True)

        def stop_when_full() -> None:
            if room.used_up():
                click.echo(f"the disk of {out} is full: the run ends, and cleans up", err=True)
                os.killpg(process.pid, signal.SIGINT)

        asked: list[bool] = []
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            follow(Progress(out), process, stop_when_full)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    code = _tell(process.returncode, out)
    if room.gone:
        click.echo(
            f"hvconform: the disk of {out} was full, and the run stopped; what had run is in its record\n"
            f"  try: free some space, hvconform report {out}, and run the rest",
            err=True,
        )
        return LAB_BROKEN
    return code


def _interrupted_with_parent() -> None:
    """Let the kernel send SIGINT to this process when its parent is killed: it cleans up then, and takes labs down.

    A shell script that starts something in the background lets it ignore SIGINT, which would pass on to this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGINT)


def _tell(code: int, out: Path) -> int:
    said = (out / "pytest.err").read_text(errors="replace").strip()
    started = (out / "matrix.json").exists()
    if started:
        _summary(out)
        for target in _unheard(out):
            click.echo(
                f"hvconform: no guest of {target} was up before the first test, so every test may fail for that alone\n"
                "  try: look at a failed test's console in the report; does the agent of the lab file's image start?",
                err=True,
            )
        click.echo(f"reports: {out}")
    if said and (not started or code in (3, 4)):
        click.echo("hvconform: " + said.replace("ERROR: ", "").replace("Exit: ", ""), err=True)
    elif code not in (0, 1) and not started:
        click.echo(f"hvconform: the run ended with {code}; see {out / 'pytest.log'}", err=True)
    if code < 0:
        click.echo(f"hvconform: the run was killed; see {out / 'pytest.log'}, then: hvconform sweep", err=True)
        return 3
    return code


def _unheard(out: Path) -> list[str]:
    """The targets with failures whose first guest, booted before any test, did not answer."""
    heard: set[str] = set()
    failed: dict[str, None] = {}
    for event in read(out / "record"):
        if isinstance(event, TargetSeen) and event.boot_seconds is not None:
            heard.add(event.target)
        elif isinstance(event, ItemFinished) and event.verdict is Verdict.FAIL:
            failed[event.target] = None
    return [target for target in failed if target not in heard]


def _summary(out: Path) -> None:
    from reports import build, contract_requirements, load, terminal

    terminal.show(build(load(out / "record"), contract_requirements()))


def _set_aside(out: Path) -> None:
    """Keep an earlier run under another name: `make conformance` writes to one folder, time after time."""
    record = out / "record" / "controller.jsonl"
    if not record.exists():
        return
    changed = record.stat().st_mtime
    over = b'"event":"run-finished"' in record.read_bytes()
    if not over and time.time() - changed < _SILENT_S:
        raise LabError(f"a run seems to be writing to {out}", hint="give another --out, or wait for it")
    try:
        # taken by making it: a rename onto an empty folder replaces that
        kept = make_run_folder(out.parent, f"{out.name}-{time.strftime(TIME_IN_NAME, time.localtime(changed))}")
        out.rename(kept)
    except (LabError, OSError) as error:
        raise LabError(f"{out} holds a run and cannot be set aside: {error}", hint="give another --out") from None
    click.echo(f"the earlier run is in {kept}")


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "pytest.log").touch()
    except OSError as error:
        raise LabError(f"--out {out} cannot be written: {error.strerror}", hint="give another --out") from None


def _installed_suites() -> Path:
    spec = find_spec("suites")
    if spec is None or not spec.submodule_search_locations:
        raise MissingRequirement("the suites are not installed", hint="pip install hvconform, or give --suites")
    return Path(next(iter(spec.submodule_search_locations)))


def _root(tests: Path) -> Path:
    """Node ids, and with them Allure's history, must not depend on where the run was started."""
    folder = tests if tests.is_dir() else tests.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder
