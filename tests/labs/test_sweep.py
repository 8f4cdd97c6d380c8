"""A run that is killed without warning, at one moment or another: the sweep leaves the hosts as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.lab.inventory import LabInventory
from conformance.observers.host import Inventory, Kind
from conformance.waiting import until
from labs.libvirt_hosts.observers import LibvirtObservers

pytestmark = pytest.mark.lab

MOMENTS: dict[str, tuple[str, Callable[[Inventory], bool]]] = {
    "half made": ("reboot.config-survives", lambda new: any(entry.kind is Kind.FILE for entry in new)),
    "running": ("reboot.config-survives", lambda new: any(entry.kind is Kind.PROCESS for entry in new)),
    "migrating": ("mig.abort", lambda new: any(entry.kind is Kind.PROCESS and entry.host == "b" for entry in new)),
}
"""What is run, and what of it must be on the hosts when it is killed."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_is_swept_and_a_foreign_vm_stays(
    moment: str, lab: LabInventory, state: Path, observers: LibvirtObservers, tmp_path: Path
) -> None:
    requirement, reached = MOMENTS[moment]
    probes = [observers.host(host.name) for host in lab.hosts]
    environment = {**os.environ, "HVCONFORM_STATE": str(tmp_path / "state")}

    def everything() -> Inventory:
        return frozenset[object]().union(*(probe.inventory() for probe in probes))  # type: ignore[return-value]

    def hvconform(*arguments: str) -> list[str]:
        return [sys.executable, "-c", "from conformance.cli import main; main()", *arguments]

    with probes[0].create_canary("canary-of-somebody-else") as canary:
        before = everything()
        out = str(tmp_path / "out")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "suites", "--out", out]
        command += ["--lab", str(state / "lab.toml"), "--requirement", requirement]
        run = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            until("the moment", lambda: reached(everything() - before), seconds=60, interval=0.01)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        assert everything() != before, "the run left nothing, so the sweep would prove nothing"

        swept = subprocess.run(
            hvconform("sweep", "--lab", str(state / "lab.toml")), env=environment, capture_output=True, text=True
        )

        assert swept.returncode == 0, swept.stdout + swept.stderr
        until("the hosts to be as they were", lambda: sorted(everything() ^ before), lambda rest: not rest, seconds=30)
        assert canary.uuid in {domain.uuid for domain in probes[0].domains() if domain.running}
