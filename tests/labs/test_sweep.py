"""A run that is killed without warning, at one moment or another: the sweep leaves the hosts as they were."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.lab.inventory import LabInventory
from conformance.observers.host import Inventory, Kind
from conformance.waiting import now, until
from labs.libvirt_hosts.observers import LibvirtObservers

pytestmark = pytest.mark.lab

MOMENTS: dict[str, tuple[str, Callable[[Inventory], bool]]] = {
    "half made": ("reboot.config-survives", lambda new: any(entry.kind is Kind.FILE for entry in new)),
    "running": ("reboot.config-survives", lambda new: any(entry.kind is Kind.PROCESS for entry in new)),
    "migrating": ("mig.abort", lambda new: any(entry.kind is Kind.PROCESS and entry.host == "b" for entry in new)),
}
"""What is run, and what of it must be on the hosts when it is killed."""


RANDOM = "snap.memory-revert,suspend.same-boot-id,disk.attach-visible,mig.block-migration-content,clone.independent"
"""What runs when it is killed at any moment: saved states, volumes, clones and copies besides VMs."""

KILLS = 4


class Lab:
    """The hosts of a lab, what runs on them, and how they are swept.

    Args:
        lab: As described.
        file: Its lab file.
        observers: Of the lab.
        folder: For state and results.
    """

    def __init__(self, lab: LabInventory, file: Path, observers: LibvirtObservers, folder: Path) -> None:
        self.probes = [observers.host(host.name) for host in lab.hosts]
        self._file = str(file)
        self._folder = folder
        self._runs = itertools.count()
        self._environment = {**os.environ, "HVCONFORM_STATE": str(folder / "state")}

    def everything(self) -> Inventory:
        return frozenset[object]().union(*(probe.inventory() for probe in self.probes))  # type: ignore[return-value]

    def run(self, requirement: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "suites"]
        command += ["--lab", self._file, "--requirement", requirement, "--out", f"out{next(self._runs)}"]
        return subprocess.Popen(
            command, env=self._environment, cwd=self._folder, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def sweep(self) -> None:
        """Sweep; it must say that all is well."""
        command = [sys.executable, "-c", "from conformance.cli import main; main()", "sweep", "--lab", self._file]
        swept = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        assert swept.returncode == 0, swept.stdout + swept.stderr

    def is_as(self, before: Inventory) -> None:
        until(
            "the hosts to be as they were",
            lambda: sorted(self.everything() ^ before),
            lambda rest: not rest,
            seconds=30,
        )


@pytest.fixture
def hosts(lab: LabInventory, state: Path, observers: LibvirtObservers, tmp_path: Path) -> Lab:
    return Lab(lab, state / "lab.toml", observers, tmp_path)


@contextmanager
def killed(run: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a run and all its processes at the end."""
    try:
        yield
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_is_swept_and_a_foreign_vm_stays(moment: str, hosts: Lab) -> None:
    requirement, reached = MOMENTS[moment]
    with hosts.probes[0].create_canary("canary-of-somebody-else") as canary:
        before = hosts.everything()
        with killed(hosts.run(requirement)):
            until("the moment", lambda: reached(hosts.everything() - before), seconds=60, interval=0.01)
        assert hosts.everything() != before, "the run left nothing, so the sweep would prove nothing"

        hosts.sweep()

        hosts.is_as(before)
        assert canary.uuid in {domain.uuid for domain in hosts.probes[0].domains() if domain.running}


def test_a_run_killed_at_any_moment_is_swept(hosts: Lab) -> None:
    seed = secrets.randbits(32)
    dice = random.Random(seed)
    left: list[int] = []
    with hosts.probes[0].create_canary("canary-of-somebody-else") as canary:
        before = hosts.everything()
        bytes_before = [hosts.probes[0].file_hash(path) for path in canary.disk_paths]
        for _ in range(KILLS):
            run = hosts.run(RANDOM)
            with killed(run):
                until("the first trace", lambda: hosts.everything() - before, seconds=90)
                at = now() + dice.uniform(0, 20)
                until("a moment", lambda: now() > at or run.poll() is not None, seconds=30)  # noqa: B023
            left.append(len(hosts.everything() ^ before))

            hosts.sweep()

            hosts.is_as(before)
            assert [hosts.probes[0].file_hash(path) for path in canary.disk_paths] == bytes_before, f"seed {seed}"
            (still,) = (domain for domain in hosts.probes[0].domains() if domain.uuid == canary.uuid)
            assert still == canary, f"seed {seed}: another process, or one that has run"
    assert any(left), f"seed {seed}: no kill left anything, so the sweeps prove nothing"
