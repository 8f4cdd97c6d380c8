"""The run record: what is written is what is read, whatever a guest said and whenever the process died."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest

from conformance.errors import LabError
from conformance.record import Attachment, ItemStarted, Recorder, RunFinished, bounded, read, schema


def written(folder: Path, *events: Attachment | ItemStarted | RunFinished) -> Path:
    recorder = Recorder(folder, "controller")
    for event in events:
        recorder.write(event)
    recorder.close()
    return recorder.path


def test_events_come_back_in_order(tmp_path: Path) -> None:
    events = [ItemStarted(item=f"test-{number}", worker="gw0") for number in range(3)]
    written(tmp_path, *events)
    assert list(read(tmp_path)) == events


def test_undecodable_bytes_of_a_guest_are_recorded(tmp_path: Path) -> None:
    hostile = b"\xff\x00\xfe<script>\x1b[2J".decode("utf-8", "surrogateescape")
    written(tmp_path, Attachment(item="test", name="console", text=hostile))
    (event,) = read(tmp_path)
    assert isinstance(event, Attachment)
    assert event.text == "?\x00?<script>\x1b[2J"
    event.model_dump_json()  # and so can every report be made from it


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path, ItemStarted(item="test", worker="gw0"))
    with path.open("a") as file:
        file.write('{"event": "fini')
    assert [event.event for event in read(tmp_path)] == ["started"]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, ItemStarted(item="test", worker="gw0"))
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(LabError, match=r"controller.jsonl:1 is not a run record event"):
        list(read(tmp_path))


def test_a_folder_without_a_record_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="hvconform run --out"):
        list(read(tmp_path))


class FullDisk(io.StringIO):
    """A file whose disk is full."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_a_lab_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path, "controller")
    recorder.close()
    monkeypatch.setattr(recorder, "_file", FullDisk())
    with pytest.raises(LabError, match=r"cannot be written: .*No space left(.|\n)*free some space"):
        recorder.write(RunFinished(exit_code=0))


def test_a_long_text_keeps_its_end() -> None:
    text = bounded("a" * 100 + "the end", 20)
    assert text.endswith("the end")
    assert "cut: 87 characters" in text
    assert bounded("short", 20) == "short"


def test_the_schema_names_every_event() -> None:
    assert "Attachment" in json.dumps(schema())
