"""With sudo, what hvconform made is the caller's afterwards, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conformance.cli import ownership

OWNER = 54321

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give anything away")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, OWNER, OWNER)
    monkeypatch.setenv("HOME", str(folder))
    for name in ("HVCONFORM_STATE", "HVCONFORM_CACHE", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SUDO_UID", str(OWNER))
    monkeypatch.setenv("SUDO_GID", str(OWNER))
    return folder


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("made as root")
    return path


def owners(*paths: Path) -> set[int]:
    return {path.lstat().st_uid for path in paths}


def test_what_was_made_in_the_callers_home_is_theirs(home: Path) -> None:
    report = made(home / "work" / "results" / "today" / "record" / "main.jsonl")
    ledger = made(home / ".local" / "state" / "hvconform" / "ledgers" / "one")

    ownership.give_back(home / "work" / "results" / "today")

    for path in (report, ledger):
        while path != home:
            assert owners(path) == {OWNER}, path
            path = path.parent


def test_what_others_own_stays_theirs(home: Path, tmp_path: Path) -> None:
    foreign = made(home / "out" / "foreign")
    os.chown(foreign, 12345, 12345)
    target = made(tmp_path / "elsewhere")
    (home / "out" / "link").symlink_to(target)
    roots = made(tmp_path / "root" / "out" / "file")

    ownership.give_back(home / "out", tmp_path / "root" / "out")

    assert owners(foreign) == {12345}
    assert owners(home / "out" / "link") == {OWNER}
    assert owners(target, roots) == {0}


def test_hosts_of_nested_labs_stay_roots(home: Path) -> None:
    file = made(home / ".local" / "state" / "hvconform" / "labs" / "kvm-0" / "a" / "etc" / "qemu.conf")

    ownership.give_back()

    assert owners(file, file.parents[2]) == {0}
    assert owners(file.parents[3]) == {OWNER}


def test_without_sudo_nothing_changes_hands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID")
    report = made(home / "out" / "matrix.json")

    ownership.give_back(home / "out")

    assert owners(report) == {0}
