"""The hosts' command lines, and what is refused before QEMU is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conformance.errors import LabError
from conformance.waiting import until
from labs.nested import processes
from labs.nested.accel import Accelerator
from labs.xen import machine
from labs.xen.layout import HOSTS, Cell

TCG = Accelerator("tcg", "7.2")


def words(cell: Cell, host: str, *, state: Path | None = None, kernels: Path = Path("/k")) -> list[str]:
    made = machine.Kernels(kernels / "xen", kernels / "vmlinux", kernels / "initrd")
    disks = [machine.Disk(Path("/d,1/root.qcow2"), "qcow2")]
    return machine.command(cell, host, TCG, made, disks, machine.Ports(1022, 1509), state)


def test_nobody_gets_out_and_only_this_machine_in() -> None:
    line = words(Cell(0, Path("/s")), "a")

    (outside,) = [word for word in line if word.startswith("user,")]
    assert "restrict=on" in outside
    assert all(part.startswith("hostfwd=tcp:127.0.0.1:") for part in outside.split(",") if "hostfwd" in part)


def test_the_hosts_differ_in_what_libvirt_tells_them_apart_by() -> None:
    lines = [words(Cell(0, Path("/s")), host) for host in HOSTS]
    uuids = [line[line.index("-uuid") + 1] for line in lines]
    links = [word for line in lines for word in line if word.startswith("virtio-net-pci,netdev=link")]

    assert len(set(uuids)) == len(set(links)) == 2


def test_a_clone_is_the_machine_that_was_saved() -> None:
    cold = words(Cell(0, Path("/s")), "b")
    clone = words(Cell(1, Path("/s")), "b", state=Path("/state of b"))

    assert clone[-2:] == ["-incoming", "exec:cat '/state of b'"]
    assert [word for word in cold if "mark" not in word][3:] == clone[:-2][3:]


def test_a_comma_in_a_disk_s_path_is_kept() -> None:
    assert any("file=/d,,1/root.qcow2," in word for word in words(Cell(0, Path("/s")), "a"))


@pytest.mark.parametrize("folder", ["/a b", "/a,b"])
def test_a_path_that_qemu_would_split_is_refused(folder: str) -> None:
    with pytest.raises(LabError, match="space or a comma"):
        words(Cell(0, Path("/s")), "a", kernels=Path(folder))


def test_a_path_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(LabError, match="too long for a unix socket"):
        words(Cell(0, Path("/" + "s" * 120)), "a")


def test_what_qemu_says_when_it_does_not_start_is_told() -> None:
    with pytest.raises(LabError, match=r"QEMU of host a did not start: .*no such thing"):
        machine.start("a", [sys.executable, "-c", "import sys; sys.exit('no such thing')"])


def test_a_monitor_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="host a does not answer"):
        machine.Monitor(Cell(0, tmp_path), "a")


def test_a_machine_that_just_goes_to_the_background_is_ended_whole(tmp_path: Path) -> None:
    """It is two processes then, parent and child."""
    mark = Cell(0, tmp_path).mark
    code = "import os, signal; os.fork(); signal.pause()"
    qemu = subprocess.Popen([sys.executable, "-c", code, "-name", f"{mark}-a"])

    def left() -> list[int]:
        return [pid for pid, words in processes.command_lines() if f"{mark}-a" in words]

    until("both to be there", left, lambda found: len(found) == 2, seconds=30)

    ended = machine.end(mark)

    still = left()
    processes.end("what is left", still)
    qemu.wait()
    assert (ended, still) == (["a"], [])
