"""`hvconform lab` and `hvconform sweep`: nested labs up and down, and what killed runs left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from conformance import paths
from conformance.errors import LabFileError
from conformance.lab import labs
from conformance.lab import sweep as sweeping
from conformance.lab.inventory import LabInventory, load
from conformance.lab.lab import LabKind


@click.group()
def lab() -> None:
    """Nested labs: up, down, status, rebuild."""


def _cells(command: click.decorators.FC) -> click.decorators.FC:
    option = click.option("--cells", type=click.IntRange(1, 64), default=None, help="How many labs of this kind.")
    return option(command)


@lab.command()
@click.argument("name")
@_cells
def up(name: str, cells: int | None) -> None:
    """Bring a nested lab up."""
    kind = nested(name)
    for cell in range(cells or 1):
        labs.may_bring_up(kind)
        folder = paths.lab_dir(name, cell)
        kind.up(cell, folder, _say)
        click.echo(f"{name}-{cell} is up: {folder}")


@lab.command()
@click.argument("name")
@_cells
def down(name: str, cells: int | None) -> None:
    """Take a nested lab down, however broken it is."""
    kind = nested(name)
    numbers = range(cells) if cells else existing(name) or [0]
    for cell in numbers:
        labs.may_bring_up(kind)
        kind.down(cell, paths.lab_dir(name, cell), _say)
        click.echo(f"{name}-{cell} is down")


@lab.command()
@click.argument("name")
@_cells
@click.pass_context
def rebuild(context: click.Context, name: str, cells: int | None) -> None:
    """Take a nested lab down, throw away what was built for it, and bring it up anew."""
    cells = cells or len(existing(name)) or 1
    context.invoke(down, name=name, cells=None)
    nested(name).forget(_say)
    context.invoke(up, name=name, cells=cells)


@lab.command()
@click.argument("name", required=False)
@_cells
def status(name: str | None, cells: int | None) -> None:
    """Say which nested labs are up."""
    names = [name] if name else [each for each in labs.kind_names() if labs.lab_kind(each).nested]
    for each in names:
        kind = nested(each)
        for cell in range(cells) if cells else existing(each) or [0]:
            seen = kind.status(cell, paths.lab_dir(each, cell))
            click.echo(f"{each}-{cell}: {seen.state}{f' ({seen.detail})' if seen.detail else ''}")


@click.command()
@click.option("--lab", "names", multiple=True, metavar="NAME|FILE", help="Only this lab.")
@click.pass_context
def sweep(context: click.Context, names: tuple[str, ...]) -> None:
    """Remove what killed runs left on the labs, and nothing else."""
    failed = False
    for name, inventory in _to_sweep(names):
        done = sweeping.forget(name) if inventory is None else sweeping.sweep(inventory, _say)
        for path in done.living:
            click.echo(f"{name}: {path.stem} belongs to a run that is alive; left alone")
        for problem in done.problems:
            click.echo(f"{name}: {problem}", err=True)
        failed = failed or bool(done.problems)
        click.echo(f"{name}: {len(done.reclaimed)} reclaimed")
    if failed:
        context.exit(6)


def _to_sweep(names: tuple[str, ...]) -> Iterator[tuple[str, LabInventory | None]]:
    """Labs by their inventory's name; None for a nested one that is down."""
    for name in names:
        if name not in labs.kind_names():
            inventory = load(Path(name))
            yield inventory.name, inventory
    for known in sweeping.known_labs():
        kind_name, _, cell = known.rpartition("-")
        is_nested = cell.isdigit() and kind_name in labs.kind_names() and labs.lab_kind(kind_name).nested
        if is_nested and (not names or kind_name in names):
            kind, folder = labs.lab_kind(kind_name), paths.lab_dir(kind_name, int(cell))
            running = kind.status(int(cell), folder).state == "up"
            yield known, kind.up(int(cell), folder, _say) if running else None
        elif not is_nested and not names:
            click.echo(f"{known}: has ledgers of past runs; sweep it with --lab and its lab file", err=True)


def nested(name: str) -> type[LabKind]:
    """The nested lab kind of this name; raises `LabFileError`."""
    kind = labs.lab_kind(name)
    if not kind.nested:
        raise LabFileError(f"{name} labs are not made by hvconform", hint="describe yours in a lab file")
    return kind


def existing(name: str) -> list[int]:
    """The cells that have left a folder."""
    numbers = [folder.name.rpartition("-")[2] for folder in (paths.state_dir() / "labs").glob(f"{name}-*")]
    return sorted(int(number) for number in numbers if number.isdigit())


def _say(line: str) -> None:
    click.echo(f"  {line}")
