"""The run record: what happened in a run, as it happened, one JSON object a line and one file a process.

Every report is made from it and from nothing else. A line is written and flushed before the run goes on, so a killed
process loses nothing that had happened; an item that was started and never finished reads as a lab error.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from conformance.errors import LabError
from conformance.model import Evidence

SCHEMA_VERSION = 1
MAX_TEXT = 64 * 1024


class Verdict(StrEnum):
    """What a cell of the matrix can say."""

    PASS = "pass"
    FAIL = "fail"
    FLAKY = "flaky"
    NOT_CLAIMED = "not-claimed"
    WAIVED = "waived"
    NOT_TESTABLE_HERE = "not-testable-here"
    LAB_ERROR = "lab-error"
    NOT_RUN = "not-run"


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    time: float = Field(default_factory=time.time, description="seconds since the epoch")


class RunStarted(_Event):
    """First line of the controller's file."""

    event: Literal["run-started"] = "run-started"
    schema_version: int = SCHEMA_VERSION
    run: str = Field(description="id of the run, which tags everything it makes")
    hvconform: str
    contract: str = Field(description="version of the contract")
    arguments: list[str]
    python: str
    machine: str
    packages: dict[str, str] = Field(default_factory=dict)


class TargetSeen(_Event):
    """Facts read from a target."""

    event: Literal["target"] = "target"
    target: str
    lab: str
    driver: str
    evidence: Evidence
    evidence_note: str = ""
    facts: dict[str, str] = Field(default_factory=dict)
    capabilities: list[str] = Field(default_factory=list)
    defect: str = ""
    boot_seconds: float | None = Field(None, description="measured at the start: power-on to the agent's answer")


class ItemPlanned(_Event):
    """A cell that this run means to fill."""

    event: Literal["planned"] = "planned"
    item: str = Field(description="pytest node id")
    requirement: str
    target: str
    provenance: str


class ItemStarted(_Event):
    event: Literal["started"] = "started"
    item: str
    worker: str


class DriverCall(_Event):
    """One call into a driver, with what it claimed."""

    event: Literal["call"] = "call"
    item: str = ""
    operation: str
    arguments: str = ""
    seconds: float
    error: str = ""


class GuestBoot(_Event):
    """Time spent waiting for a guest to come up, which is the hypervisor's and not ours."""

    event: Literal["guest-boot"] = "guest-boot"
    item: str = ""
    seconds: float


class Figure(BaseModel):
    """Something that a test measured, with the bound that it was held against."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(description='such as "longest gap"')
    value: FiniteFloat
    unit: str
    at_most: FiniteFloat | None = Field(None, description="null: the contract bounds it nowhere")

    def __str__(self) -> str:
        return f"{self.what} {self.text}" + (f", at most {self.bound} allowed" if self.bound else "")

    @property
    def text(self) -> str:
        """``"708 ms"``."""
        return f"{_number(self.value)} {self.unit}"

    @property
    def bound(self) -> str:
        """``"2000 ms"``, or nothing."""
        return "" if self.at_most is None else f"{_number(self.at_most)} {self.unit}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Measure(Protocol):
    """How a test gives a figure: it goes to the reports, kept or not, and beyond its bound the test fails."""

    def __call__(self, what: str, value: float, unit: str, *, at_most: float | None = None) -> None: ...


class Measured(_Event):
    """A figure, as soon as it was taken."""

    event: Literal["measured"] = "measured"
    item: str
    figure: Figure


class Attachment(_Event):
    """Something kept for whoever debugs: a console, a host log, a state history. Bounded, and hostile until escaped."""

    event: Literal["attachment"] = "attachment"
    item: str
    name: str
    text: str


class ItemFinished(_Event):
    """The verdict on one cell."""

    event: Literal["finished"] = "finished"
    item: str
    requirement: str
    target: str
    provenance: str
    verdict: Verdict
    seconds: float
    message: str = Field("", description="why, in one line, when it is not a pass")
    detail: str = Field("", description="traceback and everything else")
    residue: list[str] = Field(default_factory=list, description="what the test left behind on the hosts")
    refusal: str = Field("", description="for not-claimed: the error with which the operation was refused")
    worker: str = ""


class RunFinished(_Event):
    """Last line of the controller's file; without it the run was killed."""

    event: Literal["run-finished"] = "run-finished"
    exit_code: int


Event = Annotated[
    RunStarted
    | TargetSeen
    | ItemPlanned
    | ItemStarted
    | DriverCall
    | GuestBoot
    | Measured
    | Attachment
    | ItemFinished
    | RunFinished,
    Field(discriminator="event"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def schema() -> dict[str, Any]:
    """The JSON Schema of one line."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_EVENT.json_schema()}


class Recorder:
    """Appends events to one process's file. Safe to use from several threads.

    Args:
        folder: The run's record folder; made if missing.
        process: ``"controller"`` or the worker's name.
    """

    def __init__(self, folder: Path, process: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{process}.jsonl"
        self._file = self.path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, event: Event) -> None:
        """Append one event. Raises `LabError` when the disk does not take it."""
        # Undecodable bytes of a guest may be lone surrogates here, which UTF-8 has no form for.
        text = json.dumps(event.model_dump(), ensure_ascii=False, separators=(",", ":"))
        line = text.encode("utf-8", "replace").decode("utf-8")
        with self._lock:
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:
                raise LabError(
                    f"the run record {self.path} cannot be written: {error}", hint="free some space and run again"
                ) from error

    def close(self) -> None:
        """End the file; raises `LabError` when the disk does not take its end."""
        with self._lock:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
            except OSError as error:
                raise LabError(
                    f"the run record {self.path} cannot be ended: {error}", hint="free some space"
                ) from error


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """At most `limit` characters of a text, its end kept, since that is where failures speak."""
    return text if len(text) <= limit else f"[cut: {len(text) - limit} characters before this]\n{text[-limit:]}"


def read(folder: Path) -> Iterator[Event]:
    """All events of a run, file by file, in the order written.

    A torn last line of a killed process is passed over; anything else that is not an event raises `LabError`.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise LabError(f"{folder} holds no run record", hint="give the folder that `hvconform run --out` wrote")
    for path in files:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                yield _EVENT.validate_python(json.loads(line))
            except (ValueError, ValidationError) as error:
                if number == len(lines):  # no newline after it: the process died while writing
                    break
                raise LabError(f"{path}:{number} is not a run record event: {error}") from None
