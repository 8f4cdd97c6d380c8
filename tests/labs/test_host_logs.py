"""The hypervisor's log of a host: what came since a mark, from files that grow, begin anew, come and go."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from conformance.observers.host import HostDomain, Inventory
from conformance.shells.shell import LocalShell
from labs.hosts.probe import Console, ShellHostProbe


class Probe(ShellHostProbe):
    """Of a host that has logs and nothing else."""

    daemons: ClassVar[Sequence[str]] = ()
    answers: ClassVar[Sequence[str]] = ("true",)

    def __init__(self, folder: Path) -> None:
        nothing: Any = SimpleNamespace(storages=(), networks=(), name="h")
        super().__init__(nothing, nothing, LocalShell())
        self.logs = (f"{folder}/daemon.log", f"{folder}/vms/*.log", f"{folder}/none/*.log")  # type: ignore[misc]

    def domains(self) -> Sequence[HostDomain]:
        raise NotImplementedError

    def inventory(self) -> Inventory:
        raise NotImplementedError

    def console(self, uuid: str) -> Console | None:
        raise NotImplementedError

    def console_log(self, uuid: str) -> str:
        raise NotImplementedError

    def kill_vm(self, uuid: str) -> None:
        raise NotImplementedError

    def stop_out_of_band(self, uuid: str) -> None:
        raise NotImplementedError

    def canary(self, name: str) -> AbstractContextManager[str]:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vms").mkdir()
    (tmp_path / "daemon.log").write_text("started\n")
    for number in range(300):
        (tmp_path / "vms" / f"old one {number}.log").write_text("of a VM that is gone\n")
    return tmp_path


def test_what_came_since_a_mark_is_told_with_its_file(folder: Path) -> None:
    probe = Probe(folder)
    mark = probe.log_mark()
    assert probe.log_since(mark) == ""

    with (folder / "daemon.log").open("a") as log:
        log.write("something happened\n")
    (folder / "vms" / "new one.log").write_text("first line\n")
    (folder / "vms" / "old one 7.log").unlink()

    assert sorted(probe.log_since(mark).splitlines()) == sorted(
        [
            f"== {folder}/daemon.log",
            "something happened",
            f"== {folder}/vms/new one.log",
            "first line",
        ]
    )
    assert probe.log_since(probe.log_mark()) == ""


def test_a_log_that_began_anew_is_told_from_its_beginning(folder: Path) -> None:
    probe = Probe(folder)
    mark = probe.log_mark()
    (folder / "daemon.log").write_text("again\n")

    assert probe.log_since(mark).splitlines() == [f"== {folder}/daemon.log", "again"]


def test_of_a_long_log_the_end_is_told(folder: Path) -> None:
    probe = Probe(folder)
    mark = probe.log_mark()
    (folder / "daemon.log").write_text("started\n" + "x" * (1 << 17) + "\nthe end\n")

    told = probe.log_since(mark)
    assert len(told) == 1 << 16
    assert told.endswith("\nthe end\n")


def test_a_host_without_any_log_has_nothing_to_tell(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    assert probe.log_since(probe.log_mark()) == ""
