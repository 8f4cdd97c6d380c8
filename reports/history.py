"""Reads a run record into what happened to each item, attempt by attempt."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from conformance.errors import INTERRUPTED, LabError
from conformance.record import (
    Attachment,
    DriverCall,
    Figure,
    GuestBoot,
    ItemFinished,
    ItemPlanned,
    ItemStarted,
    Measured,
    RunFinished,
    RunStarted,
    TargetSeen,
    Verdict,
    read,
)
from reports.text import counted, one_line, plain

_Happened = DriverCall | GuestBoot | Measured | Attachment
"""What belongs to an item and has a place of its own in neither its beginning nor its end."""

MAX_CALLS = 500
MAX_ATTACHMENTS = 20


class End(StrEnum):
    """How a run ended. One that was interrupted (Ctrl-C, SIGTERM) wrote its end, a killed one did not."""

    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    KILLED = "killed"

    @classmethod
    def by(cls, exit_code: int | None) -> End:
        """From the exit code that the run wrote, if it did."""
        if exit_code is None:
            return cls.KILLED
        return cls.INTERRUPTED if exit_code == INTERRUPTED else cls.COMPLETE


@dataclass(frozen=True, slots=True)
class Call:
    """One driver call of an item, safe to show. `seconds` is how long it took; `error` is empty when it succeeded."""

    operation: str
    arguments: str
    seconds: float
    error: str


@dataclass(slots=True)
class Item:
    """One pytest item: where it belongs and everything that happened to it."""

    id: str
    requirement: str
    target: str
    provenance: str
    starts: list[ItemStarted] = field(default_factory=list)
    finishes: list[ItemFinished] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    calls_left_out: int = 0
    boot_seconds: float = 0.0
    figures: dict[str, Figure] = field(default_factory=dict)
    attachments: list[tuple[str, str]] = field(default_factory=list)
    attachments_left_out: int = 0

    def attempts(self, end: End) -> list[ItemFinished]:
        """Every attempt in the order it ended; one that began and never ended is a lab error.

        Nothing that was planned and never begun is an attempt: the list is then empty.
        """
        ended = sorted(self.finishes, key=lambda finish: finish.time)
        lost = self.starts[len(ended) :] if len(self.starts) > len(ended) else []
        return [*(self._lost(start, end) for start in lost), *ended]

    def _lost(self, start: ItemStarted, end: End) -> ItemFinished:
        cause = f"the worker {start.worker} died" if end is End.COMPLETE else f"the run was {end}"
        return ItemFinished(
            time=start.time,
            item=self.id,
            requirement=self.requirement,
            target=self.target,
            provenance=self.provenance,
            verdict=Verdict.LAB_ERROR,
            seconds=0.0,
            message=f"{cause} during this test",
            detail="",
            refusal="",
            worker=start.worker,
        )


@dataclass(slots=True)
class History:
    """A whole run, items in the order planned. `finished` is None when the run was killed."""

    folder: Path
    started: RunStarted
    finished: RunFinished | None
    targets: dict[str, TargetSeen]
    items: dict[str, Item]

    @property
    def end(self) -> End:
        return End.by(self.finished.exit_code if self.finished else None)


def find_record(path: Path) -> Path:
    """The record folder of a run: `path` itself, or ``path/record`` when `path` is what ``run --out`` was given."""
    if not any(path.glob("*.jsonl")) and any((path / "record").glob("*.jsonl")):
        return path / "record"
    return path


def load(path: Path) -> History:
    """Read a run. Raises `LabError` when there is no record at `path` or it was never begun."""
    folder = find_record(path)
    started: RunStarted | None = None
    finished: RunFinished | None = None
    targets: dict[str, TargetSeen] = {}
    items: dict[str, Item] = {}
    begun: dict[str, list[ItemStarted]] = defaultdict(list)
    around: dict[str, list[_Happened]] = defaultdict(list)
    for event in read(folder):
        match event:
            case RunStarted():
                started = event if started is None else min(started, event, key=lambda run: run.time)
            case RunFinished():
                finished = event
            case TargetSeen():
                known = targets.get(event.target)
                if known is not None and event.boot_seconds is None:  # a worker that did not measure
                    event = event.model_copy(update={"boot_seconds": known.boot_seconds})
                targets[event.target] = event
            case ItemPlanned() | ItemFinished():
                item = items.setdefault(event.item, Item(event.item, event.requirement, event.target, event.provenance))
                if isinstance(event, ItemFinished):
                    item.finishes.append(event)
            case ItemStarted():
                begun[event.item].append(event)
            case DriverCall() | GuestBoot() | Measured() | Attachment():
                around[event.item].append(event)
    if started is None:
        raise LabError(
            f"{folder} has no beginning: no file in it holds a run-started event",
            hint="give the whole record folder of a run, the controller's file included",
        )
    for name, item in items.items():
        item.starts = sorted(begun[name], key=lambda start: start.time)
        _fill(item, around[name])
    return History(folder, started, finished, targets, items)


def _fill(item: Item, events: list[_Happened]) -> None:
    for event in sorted(events, key=lambda event: event.time):
        match event:
            case GuestBoot():
                item.boot_seconds += event.seconds
            case Measured():
                item.figures[event.figure.what] = _safe(event.figure)  # of several attempts the last one's
            case DriverCall() if len(item.calls) < MAX_CALLS:
                text = plain(event.arguments, 500), plain(event.error, 1_000)
                item.calls.append(Call(plain(event.operation, 100), text[0], event.seconds, text[1]))
            case DriverCall():
                item.calls_left_out += 1
            case Attachment() if len(item.attachments) < MAX_ATTACHMENTS:
                item.attachments.append((plain(event.name, 200), plain(event.text)))
            case Attachment():
                item.attachments_left_out += 1


def _safe(figure: Figure) -> Figure:
    return figure.model_copy(update={"what": one_line(figure.what, 100), "unit": one_line(figure.unit, 20)})


def left_out(item: Item) -> str:
    """What was too much to show, or nothing."""
    parts = []
    if item.calls_left_out:
        parts.append(counted(item.calls_left_out, "more driver call"))
    if item.attachments_left_out:
        parts.append(counted(item.attachments_left_out, "more attachment"))
    return " and ".join(parts)
