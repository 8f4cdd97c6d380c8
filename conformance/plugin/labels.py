"""How an item is filed in Allure: epic is the target, feature the area, story the requirement.

Allure's historyId is an MD5 over the parameters' values, joined without separators (allure-python #778): a target's
slug begins with a letter or digit and a provenance is one of the contract's, so no two pairs read the same.
"""

from __future__ import annotations

import allure
import pytest

from conformance.contract import Contract
from conformance.plugin.plan import CELL, Cell


def apply(item: pytest.Item, contract: Contract) -> None:
    """File the running item; only its Allure result is touched."""
    cell = item.stash[CELL]
    row = contract.get(cell.requirement)
    allure.dynamic.epic(cell.target)  # type: ignore[no-untyped-call]
    allure.dynamic.feature(contract.areas[row.area].title)  # type: ignore[no-untyped-call]
    allure.dynamic.story(row.id)  # type: ignore[no-untyped-call]
    allure.dynamic.title(_title(cell, row.statement))  # type: ignore[no-untyped-call]
    allure.dynamic.description(row.statement + (f"\n\n{row.rationale}" if row.rationale else ""))  # type: ignore[no-untyped-call]
    allure.dynamic.tag(str(row.level), *(str(observer) for observer in row.observers))  # type: ignore[no-untyped-call]
    allure.dynamic.label("requirement", row.id)  # type: ignore[no-untyped-call]


def _title(cell: Cell, statement: str) -> str:
    return f"{statement} [{cell.provenance}]" if cell.provenance else statement
