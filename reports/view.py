"""What the reports for people share: words and symbols, provenances collapsed, counts per target, what to look at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from conformance.model import Evidence
from conformance.record import Figure, Verdict
from reports.matrix import WORST_FIRST, Cell, Matrix, Requirement, Target, severity

SYMBOL = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.FLAKY: "≈",
    Verdict.NOT_CLAIMED: "○",
    Verdict.WAIVED: "⊘",
    Verdict.NOT_TESTABLE_HERE: "◇",
    Verdict.LAB_ERROR: "!",
    Verdict.NOT_RUN: "…",
}
MEANING = {
    Verdict.PASS: "kept, as observed in the guest, on the host or on the wire",
    Verdict.FAIL: "broken",
    Verdict.FLAKY: "passed and failed in one run",
    Verdict.NOT_CLAIMED: "not declared, and cleanly refused",
    Verdict.WAIVED: "broken, and waived",
    Verdict.NOT_TESTABLE_HERE: "this kind of target cannot show it",
    Verdict.LAB_ERROR: "the lab or the harness failed; says nothing of the driver",
    Verdict.NOT_RUN: "planned and never started",
}
EVIDENCE_MEANING: dict[str, str] = {
    Evidence.HARDWARE: "a real hypervisor on real hardware",
    Evidence.NESTED: "a real hypervisor in an emulated machine",
    Evidence.VENDOR_SIMULATOR: "the vendor's own simulator, not a hypervisor",
    Evidence.OWN_DOUBLE: "our double of the hypervisor's protocol, not a hypervisor",
    Evidence.SIMULATED: "an in-memory world, not a hypervisor",
    "unknown": "the target never answered",
}
GOOD = frozenset({Verdict.PASS, Verdict.NOT_CLAIMED, Verdict.NOT_TESTABLE_HERE})
NOT_A_HYPERVISOR = frozenset({Evidence.VENDOR_SIMULATOR, Evidence.OWN_DOUBLE, Evidence.SIMULATED})


@dataclass(frozen=True, slots=True)
class Collapsed:
    """All provenances of one requirement on one target: the worst verdict and the cells that have it."""

    verdict: Verdict
    worst: tuple[Cell, ...]
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """``"pass"`` when all agree, else the worst with its share, such as ``"fail 2/7"``."""
        share = "" if len(self.worst) == len(self.cells) else f" {len(self.worst)}/{len(self.cells)}"
        return f"{self.verdict}{share}"

    @property
    def provenances(self) -> str:
        """Where the worst verdict was found; empty for a test that makes its own VMs."""
        return ", ".join(cell.provenance for cell in self.worst if cell.provenance)


def place(cell: Cell) -> str:
    """The cell's target and provenance, such as ``"kvm · migrated"``."""
    return " · ".join(part for part in (cell.target, cell.provenance) if part)


def collapse(cells: Sequence[Cell]) -> Collapsed:
    """One verdict for several provenances; `cells` must not be empty."""
    verdict = min((cell.verdict for cell in cells), key=severity)
    return Collapsed(verdict, tuple(cell for cell in cells if cell.verdict is verdict), tuple(cells))


@dataclass(frozen=True, slots=True)
class Row:
    """A requirement with its collapsed cell on each target; a target without one is not in `cells`."""

    requirement: Requirement
    cells: dict[str, Collapsed]


def rows(matrix: Matrix) -> list[Row]:
    """Every requirement that has a cell, in the matrix's order."""
    found: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in matrix.cells:
        found[cell.requirement][cell.target].append(cell)
    return [
        Row(requirement, {target: collapse(cells) for target, cells in found[requirement.id].items()})
        for requirement in matrix.requirements
        if requirement.id in found
    ]


def areas(lines: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by area, areas in the order in which the contract first names them."""
    grouped: dict[str, list[Row]] = defaultdict(list)
    for line in lines:
        grouped[line.requirement.area].append(line)
    return dict(grouped)


@dataclass(frozen=True, slots=True)
class Standing:
    """Numbers of one target: requirements by their collapsed verdict, and single cells by verdict."""

    target: Target
    requirements: Counter[Verdict]
    cells: Counter[Verdict]

    @property
    def decided(self) -> int:
        """Requirements that this run could decide on this target: kept or broken."""
        return sum(self.requirements[verdict] for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.FLAKY))

    @property
    def undecided(self) -> int:
        """Requirements of which this run says nothing: a lab error, or not run."""
        return self.requirements[Verdict.LAB_ERROR] + self.requirements[Verdict.NOT_RUN]

    def present(self) -> Iterator[tuple[Verdict, int]]:
        """Verdicts of cells that occur, worst first."""
        return ((verdict, self.cells[verdict]) for verdict in WORST_FIRST if self.cells[verdict])


def standings(matrix: Matrix, lines: Sequence[Row]) -> list[Standing]:
    """The numbers of each target, in column order."""
    collapsed: dict[str, Counter[Verdict]] = defaultdict(Counter)
    for line in lines:
        for target, cell in line.cells.items():
            collapsed[target][cell.verdict] += 1
    totals = {total.target: Counter(total.verdicts) for total in matrix.totals}
    return [Standing(target, collapsed[target.target], totals[target.target]) for target in matrix.targets]


def of_verdict(matrix: Matrix, *verdicts: Verdict) -> list[Cell]:
    """The cells with one of these verdicts, in the matrix's order."""
    return [cell for cell in matrix.cells if cell.verdict in verdicts]


def findings(matrix: Matrix, lines: Sequence[Row], *verdicts: Verdict) -> list[Collapsed]:
    """Requirements whose headline on a target is one of these verdicts, those of columns with a seeded defect last."""
    seeded = {target.target for target in matrix.targets if target.defect}
    found = [cell for line in lines for cell in line.cells.values() if cell.verdict in verdicts]
    return sorted(found, key=lambda cell: cell.worst[0].target in seeded)


@dataclass(frozen=True, slots=True)
class Reading:
    """The largest figure of its kind on one target, the cell that it is from, and of how many cells."""

    figure: Figure
    cell: Cell
    cells: int

    @property
    def label(self) -> str:
        """Such as ``"708 ms"``, or ``"0.8 s, the largest of 7: migrated"``."""
        worst = f", the largest of {self.cells}: {self.cell.provenance}" if self.cells > 1 else ""
        return f"{self.figure.text}{worst}"

    @property
    def broken(self) -> bool:
        """Whether it is beyond its bound."""
        return self.figure.at_most is not None and self.figure.value > self.figure.at_most


@dataclass(frozen=True, slots=True)
class Measurement:
    """What tests of one requirement measured, by target."""

    requirement: str
    what: str
    bound: str
    readings: dict[str, Reading]


def measurements(matrix: Matrix) -> list[Measurement]:
    """Every kind of figure in the matrix, in its order."""
    found: dict[tuple[str, str, str], dict[str, list[tuple[Figure, Cell]]]] = defaultdict(lambda: defaultdict(list))
    for cell in matrix.cells:
        for figure in cell.figures:
            found[cell.requirement, figure.what, figure.bound][cell.target].append((figure, cell))
    return [
        Measurement(*key, {target: _reading(taken) for target, taken in targets.items()})
        for key, targets in found.items()
    ]


def _reading(taken: list[tuple[Figure, Cell]]) -> Reading:
    figure, cell = max(taken, key=lambda pair: pair[0].value)
    return Reading(figure, cell, len(taken))


def warning(target: Target) -> str:
    """What a reader must know before believing a column, or nothing."""
    if target.defect:
        return f"Seeded defect “{target.defect}”: failures in this column are wanted."
    if target.evidence in NOT_A_HYPERVISOR:
        return f"{str(target.evidence).capitalize()}: {EVIDENCE_MEANING[target.evidence]}."
    if target.evidence == "unknown":
        return "This target never answered."
    return ""


def hypervisor(target: Target) -> str:
    """Name, version and accelerator as the target gave them, such as ``"QEMU 9.2.1, tcg"``."""
    facts = target.facts
    name = " ".join(part for part in (facts.get("hypervisor", ""), facts.get("version", "")) if part)
    return ", ".join(part for part in (name, facts.get("accelerator", "")) if part and part != "none")


def moment(seconds: float) -> str:
    """A time of day as ``"2026-11-23 21:05 UTC"``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
