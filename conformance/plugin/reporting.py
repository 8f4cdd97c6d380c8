"""The way from a run to its reports, which the harness does not depend on: they are found by name when a run ends."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path


def write(out: Path, allure: Path | None = None) -> list[Path]:
    """Write every report of the run in `out`; raises `LabError` when it cannot.

    Args:
        out: The run's folder.
        allure: Folder of Allure results to be completed: a crashed test left none (allure-python #825, #641).
    """
    reports = import_module("reports")
    written = list(reports.write_all(out / "record", out))
    if allure is not None and allure.is_dir():
        history = reports.load(out / "record")
        matrix = reports.build(history, reports.contract_requirements())
        import_module("reports.allure").complete(allure, matrix, history)
    return written


def summary(out: Path) -> str:
    """The run's summary as plain lines."""
    from rich.console import Console

    reports, terminal = import_module("reports"), import_module("reports.terminal")
    text = io.StringIO()
    matrix = reports.build(reports.load(out / "record"), reports.contract_requirements())
    terminal.show(matrix, Console(file=text, highlight=False, markup=False, emoji=False, width=120))
    return text.getvalue()
