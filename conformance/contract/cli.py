"""`hvconform contract`: read the contract, check it against the suites, and write its page.

Exit codes: 0 all is well, 1 a check found problems. A command that was called wrongly ends with 4 as everywhere in
`hvconform`, where 2 means interrupted; the group on its own ends with click's 2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from conformance.contract import Contract, Level, Requirement, UnknownRequirement, load
from conformance.contract import check as checks
from conformance.contract.document import markdown

HOME = Path(__file__).parent
_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def contract() -> None:
    """What a driver must do, and which test holds it to that."""


def _suites_option(command: _Command) -> _Command:
    return click.option(
        "--suites",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=checks.suites_folder,
        show_default="the installed suites",
        help="Folder of the tests.",
    )(command)


def _area(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and value not in (areas := load().areas):
        raise click.BadParameter(f"no area is called {value!r}; there are: {', '.join(areas)}")
    return value


@contract.command("list")
@click.option("--area", callback=_area, help="Only this area, such as reboot.")
@click.option("--level", type=click.Choice([level.value for level in Level]), help="Only this level.")
@click.option("--tier", type=click.IntRange(1, 2), help="Only this tier.")
@click.option("--covered/--uncovered", default=None, help="Only those with, or without, a test.")
@_suites_option
def list_(area: str | None, level: str | None, tier: int | None, covered: bool | None, suites: Path | None) -> None:
    """List requirements, one a line: id, level, tier, tested or not, statement."""
    tested = _coverage(suites)
    rows = [
        row
        for row in load().requirements.values()
        if area in (None, row.area)
        and level in (None, row.level)
        and tier in (None, row.tier)
        and covered in (None, row.id in tested)
    ]
    width = max((len(row.id) for row in rows), default=0)
    for row in rows:
        mark = "tested" if row.id in tested else "-"
        click.echo(f"{row.id:<{width}}  {row.level:<11}  {row.tier}  {mark:<6}  {row.statement}")
    click.echo(f"{len(rows)} of {len(load().requirements)} requirements, contract {load().version}", err=True)


@contract.command()
@click.argument("id")
@_suites_option
def show(id: str, suites: Path | None) -> None:
    """Show one requirement, its tests and the known defects that it must catch."""
    row = _get(load(), id)
    tests = [f"{test.where} {test.name}" for test in _coverage(suites).get(id, ())]
    click.echo(f"{row.id}\n  {row.statement}")
    facts = {
        "why": [row.rationale] if row.rationale else [],
        "area": [load().areas[row.area].title],
        "level": [f"{row.level}, tier {row.tier}, since {row.since}" + (", steady" if row.steady else "")],
        "needs": [", ".join(row.needs)] if row.needs else [],
        "seen by": [", ".join(row.observers)],
        "defects": list(row.defects),
        "tests": tests or ["none yet"],
    }
    for name, lines in facts.items():
        for number, line in enumerate(lines):
            click.echo(f"  {name if number == 0 else '':<8}  {line}")


@contract.command()
@click.option("--update-uncovered", is_flag=True, help=f"First write {checks.UNCOVERED} anew, keeping its reasons.")
@_suites_option
@click.pass_context
def check(context: click.Context, update_uncovered: bool, suites: Path | None) -> None:
    """Check the contract against the tests; exit with 1 and one line a problem."""
    folder = _required(suites)
    if update_uncovered:
        text = checks.uncovered_toml(load(), _coverage(folder), checks.uncovered())
        (HOME / checks.UNCOVERED).write_text(text, encoding="utf-8")
    problems = checks.check(folder)
    for problem in problems:
        click.echo(str(problem))
    tested = len(_coverage(folder).keys() & load().requirements.keys()) if not problems else 0
    if problems:
        click.echo(f"{len(problems)} problems", err=True)
        context.exit(1)
    click.echo(f"contract {load().version}: {len(load().requirements)} requirements, {tested} with a test", err=True)


@contract.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write; otherwise it is printed.")
@_suites_option
def doc(out: Path | None, suites: Path | None) -> None:
    """Write the contract as a page of Markdown."""
    page = markdown(load(), _coverage(_required(suites)), checks.uncovered())
    if out is None:
        click.echo(page, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


def _coverage(suites: Path | None) -> dict[str, list[checks.Test]]:
    if suites is None:
        return {}
    try:
        return {id: list(found) for id, found in checks.coverage(checks.find_tests(suites)).items()}
    except SyntaxError as error:
        raise click.ClickException(f"{error.filename}:{error.lineno} is not Python: {error.msg}") from error


def _get(contract: Contract, id: str) -> Requirement:
    try:
        return contract.get(id)
    except UnknownRequirement as error:
        raise click.BadParameter(error.message, param_hint="ID") from error


def _required(suites: Path | None) -> Path:
    if suites is None:
        raise click.UsageError("the suites are not installed; say where they are with --suites")
    return suites
