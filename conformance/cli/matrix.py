"""`hvconform matrix` and `hvconform report`: what a run says, again, from its record."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="RUN...")
def matrix(runs: tuple[Path, ...]) -> None:
    """Show the matrix of one or more runs on the terminal."""
    from reports import build, contract_requirements, load, merge, terminal

    known = list(contract_requirements())
    terminal.show(merge([build(load(run), known) for run in runs]))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write; by default into the first run's folder.")
@click.option("--no-allure", is_flag=True, help="Leave the Allure report out; by default it is rendered by Node.")
def report(runs: tuple[Path, ...], out: Path | None, no_allure: bool) -> None:
    """Write every report of one or more runs."""
    import reports
    from reports import allure as rendering

    target = out or runs[0]
    for path in reports.write_runs(list(runs), target):
        click.echo(path)
    results = runs[0] / "allure-results"
    if no_allure or not results.is_dir():
        return
    if rendering.node() is None:
        click.echo(f"no Allure report: {rendering.NO_NODE}", err=True)
    else:
        click.echo(rendering.render(results, target / "allure"))
