"""The matrix: requirement by target by provenance, made from run records. Everything else is made from this."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from conformance.model import Evidence
from conformance.record import Figure, ItemFinished, TargetSeen, Verdict
from reports.history import End, History, Item
from reports.text import one_line, plain

SCHEMA_VERSION = 1
MAX_RESIDUE = 100

# From what a reader must see first to what needs no look. Not-claimed and not-testable-here stand after pass: where
# some provenances passed and the others do not apply, the headline is the pass, with its count.
WORST_FIRST = (
    Verdict.FAIL,
    Verdict.FLAKY,
    Verdict.LAB_ERROR,
    Verdict.NOT_RUN,
    Verdict.WAIVED,
    Verdict.PASS,
    Verdict.NOT_TESTABLE_HERE,
    Verdict.NOT_CLAIMED,
)
_SEVERITY = {verdict: rank for rank, verdict in enumerate(WORST_FIRST)}


class Contractual(Protocol):
    """What is used of a requirement of conformance.contract."""

    @property
    def id(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def area(self) -> str: ...
    @property
    def capability(self) -> str | None: ...
    @property
    def statement(self) -> str: ...


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(_Part):
    """One run that cells came from."""

    id: str
    started: float = Field(description="seconds since the epoch")
    finished: float | None = Field(description="seconds since the epoch; null: the run was killed")
    exit_code: int | None
    arguments: list[str]
    hvconform: str
    contract: str
    python: str
    machine: str
    packages: dict[str, str]

    @property
    def end(self) -> End:
        return End.by(self.exit_code)


class Target(_Part):
    """A column: one driver against one lab."""

    target: str = Field(description="slug")
    run: str = Field(description="the run that this column comes from")
    lab: str
    driver: str
    evidence: Evidence | Literal["unknown"] = Field(description="unknown: the target never answered")
    evidence_note: str
    facts: dict[str, str] = Field(description="read from the target")
    capabilities: list[str] = Field(description="as declared")
    defect: str = Field(description="seeded on purpose; empty: none")
    boot_seconds: float | None = Field(description="one guest, power-on to the agent's answer")


class Requirement(_Part):
    """A row."""

    id: str
    level: str = Field(description="must, conditional, should; unknown: not in the contract")
    area: str
    capability: str = Field(description="empty: needs none")
    statement: str


class Cell(_Part):
    """One requirement on one target from one provenance. Its texts hold no control characters and are bounded."""

    requirement: str
    target: str
    provenance: str = Field(description="how the VM came to its steady state; empty: the test makes its own VMs")
    verdict: Verdict
    evidence: Evidence | Literal["unknown"]
    duration: float = Field(description="seconds, all attempts together")
    message: str = Field(description="why it is not a pass, on one line")
    residue: list[str] = Field(description="what was left on the hosts")
    refusal: str = Field(description="for not-claimed: the error that refused")
    figures: list[Figure] = Field(description="what was measured, kept or not")
    attempts: int = Field(description="0: not run")
    rate: str = Field(description='for flaky: passes of attempts, such as "2 of 3"')
    run: str
    items: list[str] = Field(description="pytest node ids")


class Total(_Part):
    """Cells of one target counted by verdict. One kind of evidence each: kinds are never added up together."""

    target: str
    evidence: Evidence | Literal["unknown"]
    cells: int
    verdicts: dict[Verdict, int]


class Matrix(_Part):
    """Which target keeps which requirement."""

    schema_version: int = SCHEMA_VERSION
    runs: list[Run] = Field(description="oldest first")
    targets: list[Target]
    requirements: list[Requirement] = Field(description="in the contract's order")
    cells: list[Cell] = Field(description="by requirement, target, provenance in the order planned")
    totals: list[Total]
    untested: list[str] = Field(
        description="requirements without any cell: no test yet, or left out by the run's selection"
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of matrix.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Matrix.model_json_schema(mode="serialization")}


def severity(verdict: Verdict) -> int:
    """0 for the worst; see `WORST_FIRST`."""
    return _SEVERITY[verdict]


def build(history: History, contract: Iterable[Contractual] = ()) -> Matrix:
    """The matrix of one run.

    Args:
        history: What happened, from `reports.history.load`.
        contract: All requirements, in the contract's order. One that the record names and the contract does not is
            kept, last, with the level ``"unknown"``.
    """
    run = _run(history)
    cells: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    for item in history.items.values():
        cells[item.requirement, item.target, item.provenance].append(item)
    targets = _targets(history, {target for _, target, _ in cells}, run.id)
    requirements = _requirements(contract, {requirement for requirement, _, _ in cells})
    evidence = {target.target: target.evidence for target in targets}
    built = [_cell(key, items, evidence[key[1]], run.id, history.end) for key, items in cells.items()]
    return _assemble([run], targets, requirements, built)


def merge(matrices: Sequence[Matrix]) -> Matrix:
    """Columns of several runs in one matrix; where two have the same target, the newer run's whole column is taken.

    Cells of two runs never mix in one column: half of an old run would hide behind a partial new one. Requirements
    are described as the newest run has them.
    """
    newest_first = sorted(matrices, key=lambda matrix: max(run.started for run in matrix.runs), reverse=True)
    column: dict[str, Matrix] = {}
    requirements: dict[str, Requirement] = {}
    for matrix in newest_first:
        for target in matrix.targets:
            column.setdefault(target.target, matrix)
        for requirement in matrix.requirements:
            requirements.setdefault(requirement.id, requirement)
    given = [(matrix, target) for matrix in matrices for target in matrix.targets]
    targets = [target for matrix, target in given if column[target.target] is matrix]
    cells = [cell for matrix in matrices for cell in matrix.cells if column[cell.target] is matrix]
    used = {target.run for target in targets}
    runs = {run.id: run for matrix in newest_first for run in matrix.runs if run.id in used or not matrix.targets}
    return _assemble(
        sorted(runs.values(), key=lambda run: (run.started, run.id)), targets, list(requirements.values()), cells
    )


def _assemble(runs: list[Run], targets: list[Target], requirements: list[Requirement], cells: Iterable[Cell]) -> Matrix:
    row = {requirement.id: place for place, requirement in enumerate(requirements)}
    column = {target.target: place for place, target in enumerate(targets)}
    ordered = sorted(cells, key=lambda cell: (row[cell.requirement], column[cell.target]))  # stable: as planned
    counts: dict[str, Counter[Verdict]] = defaultdict(Counter)
    for cell in ordered:
        counts[cell.target][cell.verdict] += 1
    totals = [
        Total(
            target=target.target,
            evidence=target.evidence,
            cells=counts[target.target].total(),
            verdicts={verdict: counts[target.target][verdict] for verdict in Verdict},
        )
        for target in targets
    ]
    tested = {cell.requirement for cell in ordered}
    return Matrix(
        runs=runs,
        targets=targets,
        requirements=requirements,
        cells=ordered,
        totals=totals,
        untested=[requirement.id for requirement in requirements if requirement.id not in tested],
    )


def _run(history: History) -> Run:
    started, finished = history.started, history.finished
    return Run(
        id=started.run,
        started=started.time,
        finished=finished.time if finished else None,
        exit_code=finished.exit_code if finished else None,
        arguments=[one_line(argument) for argument in started.arguments],
        hvconform=started.hvconform,
        contract=started.contract,
        python=one_line(started.python),
        machine=one_line(started.machine),
        packages=_safe(started.packages),
    )


def _targets(history: History, named: set[str], run: str) -> list[Target]:
    seen = [_target(event, run) for event in history.targets.values()]
    # Its items say lab-error; the column must stand all the same.
    silent = sorted(named - history.targets.keys())
    return sorted([*seen, *(_silent(slug, run) for slug in silent)], key=lambda target: target.target)


def _target(event: TargetSeen, run: str) -> Target:
    return Target(
        target=event.target,
        run=run,
        lab=event.lab,
        driver=event.driver,
        evidence=event.evidence,
        evidence_note=one_line(event.evidence_note),
        facts=_safe(event.facts),
        capabilities=sorted(event.capabilities),
        defect=one_line(event.defect),
        boot_seconds=event.boot_seconds,
    )


def _silent(slug: str, run: str) -> Target:
    return Target(
        target=slug,
        run=run,
        lab="",
        driver="",
        evidence="unknown",
        evidence_note="this target never answered",
        facts={},
        capabilities=[],
        defect="",
        boot_seconds=None,
    )


def _requirements(contract: Iterable[Contractual], named: set[str]) -> list[Requirement]:
    known = [
        Requirement(
            id=entry.id,
            level=str(entry.level),
            area=entry.area,
            capability=str(entry.capability or ""),
            statement=entry.statement,
        )
        for entry in contract
    ]
    strangers = sorted(named - {requirement.id for requirement in known})
    return known + [
        Requirement(id=name, level="unknown", area=name.partition(".")[0], capability="", statement="")
        for name in strangers
    ]


def _cell(
    key: tuple[str, str, str], items: list[Item], evidence: Evidence | Literal["unknown"], run: str, end: End
) -> Cell:
    requirement, target, provenance = key
    outcomes = [_outcome(item.attempts(end), end) for item in items]
    # Two tests of one requirement must both hold: they are not attempts of each other, and the worst of them speaks.
    worst = min(outcomes, key=lambda outcome: severity(outcome.verdict))
    residue = [plain(line, 500) for outcome in outcomes for attempt in outcome.attempts for line in attempt.residue]
    return Cell(
        requirement=requirement,
        target=target,
        provenance=provenance,
        verdict=worst.verdict,
        evidence=evidence,
        duration=round(sum(attempt.seconds for outcome in outcomes for attempt in outcome.attempts), 6),
        message=one_line(worst.message),
        residue=list(dict.fromkeys(residue))[:MAX_RESIDUE],
        refusal=one_line(worst.refusal),
        figures=[figure for item in items for figure in item.figures.values()],
        attempts=len(worst.attempts),
        rate=worst.rate,
        run=run,
        items=[item.id for item in items],
    )


class _Outcome(BaseModel):
    verdict: Verdict
    message: str = ""
    refusal: str = ""
    rate: str = ""
    attempts: list[ItemFinished] = []


def _outcome(attempts: list[ItemFinished], end: End) -> _Outcome:
    """What the attempts of one item come to.

    Passes and failures mixed are flaky. A lab error says nothing of the driver, so it gives way to whatever another
    attempt found; the number of attempts stays to be seen.
    """
    if not attempts:
        why = "planned and never started" if end is End.COMPLETE else f"the run was {end} before this test"
        return _Outcome(verdict=Verdict.NOT_RUN, message=why)
    telling = [attempt for attempt in attempts if attempt.verdict is not Verdict.LAB_ERROR] or attempts
    found = Counter(attempt.verdict for attempt in telling)
    spoken = min(reversed(telling), key=lambda attempt: severity(attempt.verdict))
    mixed = found[Verdict.PASS] and found[Verdict.FAIL]
    rate = ""
    if mixed or found[Verdict.FLAKY]:
        # A flaky verdict of the runner itself stands for one that passed and failed without saying how often.
        rate = f"{found[Verdict.PASS]} of {found[Verdict.PASS] + found[Verdict.FAIL]}" if mixed else ""
    return _Outcome(
        verdict=Verdict.FLAKY if mixed else spoken.verdict,
        message=f"passed {rate}: {spoken.message}" if mixed else spoken.message,
        refusal=spoken.refusal,
        rate=rate,
        attempts=attempts,
    )


def _safe(values: Mapping[str, str]) -> dict[str, str]:
    return {one_line(key, 200): one_line(value) for key, value in values.items()}
