"""The live view of a run, read from the run record as it grows: counts, what runs where, and how long it will take."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from conformance import paths

_STYLES = {"pass": "green", "fail": "bold red", "lab-error": "bold magenta", "not-claimed": "dim"}
_LOOK_S = 0.25


class Progress:
    """A run as seen from its record.

    Args:
        out: The run's folder.
    """

    def __init__(self, out: Path) -> None:
        self._folder = out / "record"
        self._read: dict[Path, int] = {}
        self._start = time.monotonic()
        self._known = _durations()
        self.planned: dict[str, str] = {}
        self.finished: dict[str, dict[str, Any]] = {}
        self.running: dict[str, tuple[str, float]] = {}

    def look(self) -> list[dict[str, Any]]:
        """Take in what was written since the last look; returns the items that finished."""
        done = []
        for event in self._new_events():
            match event["event"]:
                case "planned":
                    self.planned[event["item"]] = event["target"]
                case "started":
                    self.running[event["worker"]] = (event["item"], event["time"])
                case "finished":
                    self.finished[event["item"]] = event
                    self.running = {name: at for name, at in self.running.items() if at[0] != event["item"]}
                    done.append(event)
        return done

    def _new_events(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):  # still being written
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    # the other events are many, and of no interest here
                    if b'"event":"planned"' in line or b'"event":"started"' in line or b'"event":"finished"' in line:
                        yield json.loads(line)

    @property
    def counts(self) -> Counter[str]:
        """Items by verdict."""
        return Counter(event["verdict"] for event in self.finished.values())

    def remaining_s(self) -> float | None:
        """An estimate of the seconds left, from the last run's durations and this run's mean; None without either."""
        left = [item for item in self.planned if item not in self.finished]
        seconds = [event["seconds"] for event in self.finished.values()]
        mean = sum(seconds) / len(seconds) if seconds else None
        if not self.planned or (mean is None and not self._known):
            return None
        total = sum(self._known.get(item, mean or 0.0) for item in left)
        total -= sum(time.time() - since for _, since in self.running.values())
        return max(0.0, total) / max(1, len(self.running))

    def save_durations(self) -> None:
        """Keep how long each item took, for the next run's estimate."""
        known = self._known | {item: round(event["seconds"], 3) for item, event in self.finished.items()}
        path = _durations_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(known), encoding="utf-8")
        draft.replace(path)

    def render(self) -> RenderableType:
        """The view for a terminal."""
        head = Text(f"{len(self.finished)} of {len(self.planned) or '?'}  {_clock(time.monotonic() - self._start)}")
        left = self.remaining_s()
        head.append(f", about {_clock(left)} left" if left is not None else "")
        for verdict, number in sorted(self.counts.items()):
            head.append("  ").append(f"{number} {verdict}", _STYLES.get(verdict, "yellow"))
        table = Table.grid(padding=(0, 1))
        for worker, (item, since) in sorted(self.running.items()):
            table.add_row(Text(worker, "dim"), _clock(time.time() - since), Text(item.rpartition("::")[2]))
        return Group(head, ProgressBar(total=max(1, len(self.planned)), completed=len(self.finished)), table)


def follow(progress: Progress, process: subprocess.Popen[bytes], look: Callable[[], None]) -> None:
    """Show the run until its process ends: a live view on a terminal, else a line for each finished item.

    Args:
        progress: What is shown.
        process: The run's.
        look: Called again and again meanwhile.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    if console.is_terminal:
        with Live(progress.render(), console=console, transient=True, refresh_per_second=4) as live:
            while _alive(process):
                look()
                for event in progress.look():
                    if event["verdict"] not in ("pass", "not-claimed"):
                        live.console.print(line(event), style=_STYLES.get(event["verdict"], "yellow"), soft_wrap=True)
                live.update(progress.render())
    else:
        while _alive(process):
            look()
            _plain(progress)
    _plain(progress)
    with suppress(OSError):  # the next run's estimate is not worth an error
        progress.save_durations()


def _plain(progress: Progress) -> None:
    for event in progress.look():
        click.echo(line(event))


def line(event: dict[str, Any]) -> str:
    """A finished item in one line: verdict, requirement, target and provenance, seconds, and why."""
    where = " ".join(part for part in (event["target"], event["provenance"]) if part)
    text = f"{event['verdict']:<12} {event['requirement']}  {where}  {event['seconds']:.1f} s"
    why = (
        "" if event["verdict"] in ("pass", "not-claimed") else "".join(filter(str.isprintable, event["message"]))[:300]
    )
    return f"{text}  {why}" if why else text


def _alive(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_LOOK_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def _durations_file() -> Path:
    return paths.state_dir() / "durations.json"


def _durations() -> dict[str, float]:
    try:
        found = json.loads(_durations_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the first run, or a torn file: the run's own mean will do
    return {str(item): float(seconds) for item, seconds in found.items()} if isinstance(found, dict) else {}
