"""`hvconform`: the command line.

Exit codes are in docs/running.md. Every error that has a name is one message: what, where and what to do.
"""

from __future__ import annotations

import json
import sys
import traceback
from importlib import import_module

import click

from conformance.cli import ownership
from conformance.cli.doctor import doctor
from conformance.cli.lab import lab, sweep
from conformance.cli.matrix import matrix, report
from conformance.cli.run import run
from conformance.contract.cli import contract
from conformance.errors import LAB_BROKEN, DriverError, HarnessError


@click.group()
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="hvconform")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Conformance of hypervisor drivers: one contract, every driver, one matrix."""
    context.obj = {"debug": debug}


@cli.command()
@click.argument("what", type=click.Choice(["record", "matrix"]))
def schema(what: str) -> None:
    """Print the JSON Schema of a run record's line, or of matrix.json."""
    source = import_module("conformance.record" if what == "record" else "reports.matrix")
    click.echo(json.dumps(source.schema(), indent=2))


for _command in (contract, doctor, lab, matrix, report, run, sweep):
    cli.add_command(_command)


def main() -> None:
    """Run the command line and exit."""
    try:
        # without standalone mode click returns the code given to Context.exit, or what the command returned
        code = cli.main(standalone_mode=False)
    except click.Abort:
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(4 if isinstance(error, click.UsageError) else error.exit_code)
    except HarnessError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        kind = f"{type(error).__name__}: " if isinstance(error, DriverError) else ""
        click.echo(f"hvconform: {kind}{error}", err=True)
        sys.exit(LAB_BROKEN)
    finally:
        ownership.give_back()
    sys.exit(code if isinstance(code, int) else 0)
