"""matrix.csv: one line a cell, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io

from reports.matrix import Matrix

# The last four are the full-width forms of the first four, which spreadsheets read alike.
_FORMULA = ("=", "+", "-", "@", "|", "%", "\uff1d", "\uff0b", "\uff0d", "\uff20")
COLUMNS = (
    "requirement",
    "level",
    "area",
    "target",
    "evidence",
    "provenance",
    "verdict",
    "rate",
    "attempts",
    "duration_seconds",
    "message",
    "refusal",
    "residue",
    "measured",
    "run",
    "evidence_note",
)


def render(matrix: Matrix) -> str:
    """The whole file, lines ended by CRLF as RFC 4180 has it."""
    by_id = {requirement.id: requirement for requirement in matrix.requirements}
    notes = {target.target: target.evidence_note for target in matrix.targets}
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for cell in matrix.cells:
        requirement = by_id[cell.requirement]
        texts = (cell.message, cell.refusal, " ; ".join(cell.residue), " ; ".join(map(str, cell.figures)))
        writer.writerow(
            [
                harmless(cell.requirement),
                harmless(requirement.level),
                harmless(requirement.area),
                harmless(cell.target),
                str(cell.evidence),
                harmless(cell.provenance),
                str(cell.verdict),
                cell.rate,
                cell.attempts,
                cell.duration,
                *map(harmless, texts),
                harmless(cell.run),
                harmless(notes.get(cell.target, "")),
            ]
        )
    return out.getvalue()


def harmless(text: str) -> str:
    """A text that a spreadsheet cannot take for a formula: CWE-1236, whose remedy is a leading apostrophe."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
