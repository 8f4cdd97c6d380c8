"""How a look reads a host's files: the script itself, run on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.shells.shell import LocalShell
from labs.hosts import surroundings


def sections(script: str, *, everything: bool) -> list[tuple[list[str], bytes]]:
    taken: list[tuple[list[str], bytes]] = []
    surroundings.look(
        LocalShell(),
        "here",
        script,
        [],
        lambda words, body: taken.append((words, body)),
        everything=everything,
    )
    return taken


@pytest.mark.parametrize("everything", [False, True])
def test_files_are_read_whatever_is_in_them(tmp_path: Path, everything: bool) -> None:
    content = {
        "a b.xml": b"<a/>\n<b/>\n",
        "binary.xml": b"\xff\xfe\0\0 no end of line",
        "deceiving.xml": b"\n@0123 file\n/etc/passwd\n",
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "empty.xml").touch()

    taken = sections(f"files='{tmp_path}/*.xml {tmp_path}/missing.conf'", everything=everything)

    read = {words[1]: body.removesuffix(b"\n") for words, body in taken if words[0] == "file"}
    found = {path: body for path, body in read.items() if path.startswith(str(tmp_path))}
    assert found == {str(tmp_path / name): data.removesuffix(b"\n") for name, data in content.items()}


def test_mounts_are_read_with_them() -> None:
    taken = sections("", everything=True)

    (mounts,) = [body for words, body in taken if words == ["file", "/proc/self/mounts"]]
    assert b" /proc proc " in mounts


def test_where_no_file_is_to_be_read_the_look_ends() -> None:
    assert sections("say nothing", everything=False) == [(["nothing"], b""), (["end"], b"")]
