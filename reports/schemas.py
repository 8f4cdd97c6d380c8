"""Writes docs/schema: the published JSON Schemas of the run record and of the matrix."""

from __future__ import annotations

import json
from pathlib import Path

from conformance import record
from reports import matrix
from reports.text import write_atomic


def write(folder: Path) -> list[Path]:
    """Write ``record.json`` (one line of a record) and ``matrix.json`` into `folder`."""
    documents = {"record.json": record.schema(), "matrix.json": matrix.schema()}
    return [write_atomic(folder / name, json.dumps(schema, indent=2) + "\n") for name, schema in documents.items()]


if __name__ == "__main__":
    for path in write(Path(__file__).parents[1] / "docs" / "schema"):
        print(path)
