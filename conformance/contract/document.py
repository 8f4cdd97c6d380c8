"""The contract as a page of Markdown, with its numbers. Made from the data, never edited by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from conformance.contract import Contract, Level, Requirement
from conformance.contract.check import Test, Uncovered

HEAD = """<!-- Made by `hvconform contract doc`; edit conformance/contract/*.toml instead. -->
# The contract

Version {version}: what a hypervisor driver must do, in {total} requirements. A requirement counts as kept only when an
observer that the driver does not own has seen it: the guest, the host, or a peer on the wire. Where only the driver is
named, the promise is about its answers, such as the type of an error.

- **must**: no driver may opt out.
- **conditional**: binding as soon as the driver declares the capability; until then the operation has to be refused
  with `Unsupported` and change nothing.
- **should**: graded and published, never a gate.

Tier 1 is tested first. *Steady* requirements hold on a running VM of every provenance; the last column says where they
are also tested on every one of them.
"""


def markdown(contract: Contract, covered: Mapping[str, Sequence[Test]], published: Iterable[Uncovered]) -> str:
    """The whole page. `covered` are the tests of each requirement, `published` the reasons of those without one."""
    rows = list(contract.requirements.values())
    parts = [HEAD.format(version=contract.version, total=len(rows)), "## In numbers\n", _numbers(contract, covered)]
    parts += ["\n## Provenances\n", "How a VM may have come to its steady state.\n"]
    parts += ["| provenance | needs | the VM |", "|---|---|---|"]
    parts += [f"| {row.name} | {_code(row.needs)} | {row.statement} |" for row in contract.provenances.values()]
    for area in contract.areas.values():
        parts += [
            f"\n## {area.title}\n",
            "| requirement | level | needs | statement | seen by | test |",
            "|---|---|---|---|---|---|",
        ]
        parts += [_row(row, covered.get(row.id, ())) for row in contract.in_area(area.name)]
    parts += ["\n## Not tested yet\n", *_missing(contract, covered, published)]
    return "\n".join(parts) + "\n"


def _numbers(contract: Contract, covered: Mapping[str, Sequence[Test]]) -> str:
    lines = ["| | requirements | with a test | without |", "|---|---|---|---|"]
    rows = list(contract.requirements.values())
    groups: list[tuple[str, list[Requirement]]] = [("all", rows)]
    groups += [(level.value, [row for row in rows if row.level is level]) for level in Level]
    groups += [(f"tier {tier}", [row for row in rows if row.tier == tier]) for tier in (1, 2)]
    groups += [(area.title, list(contract.in_area(area.name))) for area in contract.areas.values()]
    for name, group in groups:
        tested = sum(row.id in covered for row in group)
        lines.append(f"| {name} | {len(group)} | {tested} | {len(group) - tested} |")
    everywhere = sum(any(test.steady for test in covered.get(row.id, ())) for row in contract.steady)
    steady = len(contract.steady)
    lines.append(f"| steady, on every provenance | {steady} | {everywhere} | {steady - everywhere} |")
    return "\n".join(lines)


def _row(row: Requirement, tests: Sequence[Test]) -> str:
    level = f"{row.level}, tier {row.tier}" + (", steady" if row.steady else "")
    statement = f"{row.statement} *{row.rationale}*" if row.rationale else row.statement
    test = ", ".join(_link(test) for test in tests) or "none yet"
    needs = ", ".join(_code(capability) for capability in row.needs)
    return f"| {_code(row.id)} | {level} | {needs} | {_cell(statement)} | {', '.join(row.observers)} | {test} |"


def _link(test: Test) -> str:
    return f"[{test.name}](../{test.file})" + (", on every provenance" if test.steady else "")


def _missing(contract: Contract, covered: Mapping[str, object], published: Iterable[Uncovered]) -> Iterable[str]:
    reasons = {row.id: row for row in published}
    missing = [id for id in contract.requirements if id not in covered]
    if not missing:
        return ["Every requirement has a test."]
    lines = ["| requirement | level | reason | since |", "|---|---|---|---|"]
    for id in missing:
        entry = reasons.get(id)
        reason, since = (entry.reason, entry.since) if entry else ("not published", "")
        lines.append(f"| {_code(id)} | {contract.requirements[id].level} | {_cell(reason)} | {since} |")
    return lines


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
