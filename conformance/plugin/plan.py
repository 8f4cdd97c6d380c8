"""From requirement marks to items: what a test is parametrized by, which items are selected, and in what order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from conformance.contract import Contract, Requirement, UnknownRequirement
from conformance.model import Capability
from conformance.plugin.options import Settings

HIDING = ("skip", "skipif", "xfail")


@dataclass(frozen=True, slots=True)
class Cell:
    """One item as the matrix knows it. `group`: items of one group run next to each other on one worker."""

    item: str
    requirement: str
    target: str
    provenance: str
    group: str


CELL = pytest.StashKey[Cell]()
NEEDS = pytest.StashKey[tuple[Capability, ...]]()


def requirement_id(node: pytest.Item | pytest.Function) -> str | None:
    """The id in the requirement mark, or None without one; raises `pytest.UsageError` for a mark that is none."""
    mark = node.get_closest_marker("requirement")
    if mark is None:
        return None
    if len(mark.args) != 1 or not isinstance(mark.args[0], str) or mark.kwargs:
        raise pytest.UsageError(f"{node.nodeid}: write the mark as requirement('area.what')")
    return mark.args[0]


def parametrize(metafunc: pytest.Metafunc, contract: Contract, targets: Sequence[str], ways: Sequence[str]) -> None:
    """Give a test with a requirement the parameters `target` and, where it is steady, `provenance`."""
    node = metafunc.definition
    id = requirement_id(node)
    if id is None:
        return
    try:
        contract.get(id)
    except UnknownRequirement as error:
        raise pytest.Collector.CollectError(f"{node.nodeid}: {error}") from None
    _use(metafunc, "target")
    metafunc.parametrize("target", targets, indirect=True, scope="session")
    if node.get_closest_marker("steady") is not None or "provenance" in metafunc.fixturenames:
        _use(metafunc, "provenance")
        metafunc.parametrize("provenance", ways, indirect=True, scope="session")


def _use(metafunc: pytest.Metafunc, fixture: str) -> None:
    if fixture not in metafunc.fixturenames:
        metafunc.fixturenames.append(fixture)


def arrange(
    items: list[pytest.Item], contract: Contract, settings: Settings, targets: Sequence[str]
) -> list[pytest.Item]:
    """Describe the items, order them in place, and return those that were not asked for."""
    chosen: list[tuple[tuple[int, str], pytest.Item]] = []
    left: list[pytest.Item] = []
    for item in items:
        id = requirement_id(item)
        if id is None:
            chosen.append(((len(targets), ""), item))
            continue
        row = contract.get(id)
        cell = _cell(item, row)
        if not settings.selects(row):
            left.append(item)
            continue
        _refuse_hiding(item)
        item.stash[CELL] = cell
        item.stash[NEEDS] = _needs(item, row, contract, cell.provenance)
        chosen.append(((targets.index(cell.target), cell.group), item))
    # steady items of one provenance share a VM; the others keep their order behind them
    chosen.sort(key=lambda pair: (pair[0][0], pair[0][1] == "", pair[0][1]))
    items[:] = [item for _, item in chosen]
    return left


def _cell(item: pytest.Item, row: Requirement) -> Cell:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    target, way = str(params.get("target", "")), str(params.get("provenance", ""))
    return Cell(item.nodeid, row.id, target, way, f"{target}/{way}" if way else "")


def _refuse_hiding(item: pytest.Item) -> None:
    for name in HIDING:
        if item.get_closest_marker(name) is not None:
            raise pytest.UsageError(
                f"{item.nodeid} is marked {name}: a skip is a claim that nobody checks\n"
                "  try: name what the test needs with the mark capability(...), or let it fail"
            )


def _needs(item: pytest.Item, row: Requirement, contract: Contract, provenance: str) -> tuple[Capability, ...]:
    needs = list(row.needs)
    for mark in item.iter_markers("capability"):
        for value in mark.args:
            try:
                needs.append(Capability(value))
            except ValueError:
                raise pytest.UsageError(f"{item.nodeid}: capability({value!r}) is no capability") from None
    way = contract.provenances.get(provenance)
    if way is not None and way.needs is not None:
        needs.append(way.needs)
    return tuple(dict.fromkeys(needs))


def write(folder: Path, worker: str, items: Iterable[pytest.Item]) -> list[Cell]:
    """Leave the plan where the controller finds it: xdist tells it nothing but node ids."""
    cells = [item.stash[CELL] for item in items if CELL in item.stash]
    path = folder / f"plan-{worker}.json"
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps([asdict(cell) for cell in cells]), encoding="utf-8")
    draft.replace(path)
    return cells


def read(folder: Path, worker: str) -> list[Cell]:
    """The plan that a worker left."""
    return [Cell(**row) for row in json.loads((folder / f"plan-{worker}.json").read_text(encoding="utf-8"))]
