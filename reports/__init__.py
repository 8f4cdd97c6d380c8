"""Reports, all made from run records: ``matrix.json`` is the truth and the others are derived from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from conformance.errors import LabError
from reports import allure, html, junit, markdown, table
from reports.history import History, load
from reports.matrix import Contractual, Matrix, build, merge
from reports.text import write_atomic

__all__ = ["History", "Matrix", "build", "load", "merge", "write_all", "write_runs"]


def write_all(record: Path, out: Path, contract: Iterable[Contractual] | None = None) -> list[Path]:
    """Write every report of one run into `out` and return their paths, the first being ``matrix.json``.

    Args:
        record: The run's record folder, or the folder that holds it as ``record``.
        out: Where to write; made if missing. Each file is replaced whole or not at all.
        contract: The requirements in order; by default those of `conformance.contract`.

    Raises:
        LabError: There is no readable record, or `out` cannot be written.
    """
    return write_runs([record], out, contract)


def write_runs(records: Sequence[Path], out: Path, contract: Iterable[Contractual] | None = None) -> list[Path]:
    """Like `write_all` for several runs in one matrix; of two runs of one target the newer has the column.

    Where a run has Allure results beside its record, they are completed too.
    """
    if not records:
        raise LabError("no run was given", hint="name the folder of at least one run")
    known = list(contract_requirements() if contract is None else contract)
    titles = area_titles() if contract is None else {}
    histories: dict[str, History] = {}
    matrices: list[Matrix] = []
    for path in records:
        history = load(path)
        histories[history.started.run] = history
        matrices.append(build(history, known))
        results = history.folder.parent / "allure-results"
        if results.is_dir():
            allure.complete(results, matrices[-1], history, titles)
    matrix = merge(matrices)
    documents = {
        "matrix.json": matrix.model_dump_json(indent=1) + "\n",
        "matrix.md": markdown.render(matrix),
        "matrix.html": html.render(matrix, histories),
        "matrix.csv": table.render(matrix),
        "junit.xml": junit.render(matrix, histories),
    }
    try:
        return [write_atomic(out / name, text) for name, text in documents.items()]
    except OSError as error:
        raise LabError(
            f"the reports cannot be written to {out}: {error}", hint="free some space or give another --out"
        ) from error


def contract_requirements() -> Iterable[Contractual]:
    """The requirements of the installed contract, in its order."""
    from conformance import contract  # here, so that a matrix can be built with any other contract

    return contract.load().requirements.values()


def area_titles() -> dict[str, str]:
    """The titles of the installed contract's areas, by name."""
    from conformance import contract

    return {name: area.title for name, area in contract.load().areas.items()}
