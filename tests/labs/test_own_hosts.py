"""A lab of a user's own: hosts that are reached by SSH, by TLS and with a password, and by nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.lab.inventory import LabInventory
from conformance.observers.host import Inventory, Kind
from conformance.shells.shell import Completed
from conformance.waiting import until
from labs.kvm import certificates
from labs.kvm.layout import Cell
from labs.libvirt_hosts.observers import LibvirtObservers
from tests.labs import workstation
from tests.labs.conftest import CELL
from tests.labs.workstation import Workstation

pytestmark = pytest.mark.lab

SELECTION = (
    "boot.correct-image",
    "reboot.soft-new-boot-id",
    "mig.console-follows",
    "net.mac-spoof-blocked",
    "fault.mgmt-daemon-killed",
    "del.gone-everywhere",
)
"""Every observer by every way: guests over the wire, hosts and their faults, peers that forge; migrations."""

PASSWORD = "correct-horse-battery"


@pytest.fixture(scope="module")
def here(lab: LabInventory, state: Path) -> Iterator[Workstation]:
    """A workstation; host b asks for a password on top of the certificate."""
    cell = Cell(CELL, state)
    config = cell.host_dir("b") / "etc" / "libvirtd.conf"
    plain = config.read_text()
    with workstation.beside(cell, lab) as made:
        sasl = made.home / "sasl"
        sasl.mkdir()
        (sasl / "libvirt.conf").write_text(f"mech_list: scram-sha-256\nsasldb_path: {sasl / 'db'}\n")
        subprocess.run(
            ["saslpasswd2", "-c", "-p", "-f", str(sasl / "db"), "-u", cell.hostname("b"), "-a", "libvirt", "me"],
            input=PASSWORD.encode(),
            check=True,
        )
        try:
            config.write_text(plain + 'auth_tls = "sasl"\n')
            restart(lab, f"export SASL_CONF_PATH={sasl}; ")
            yield made
        finally:
            config.write_text(plain)
            restart(lab, "")


def restart(lab: LabInventory, before: str) -> None:
    """Start the daemon of host b anew, with something before its command line."""
    hosts = [host.model_copy(update={"service": before + host.service}) for host in lab.hosts]
    observers = LibvirtObservers(lab.model_copy(update={"hosts": hosts}))
    observers.host("b").restart_management()
    observers.close()


def login(here: Workstation, **changes: Any) -> dict[str, Any]:
    uris = {"a": here.uri("a", "ssh"), "b": here.uri("b", "tls")} | changes.pop("uris", {})
    return {"uris": uris, "user": "me", "password_env": "HVC_LOGIN"} | changes


def everything(lab: LabInventory, observers: LibvirtObservers) -> Inventory:
    return frozenset[object]().union(*(observers.host(host.name).inventory() for host in lab.hosts))  # type: ignore[return-value]


def verdicts(out: Path) -> dict[str, str]:
    return {cell["requirement"]: cell["verdict"] for cell in json.loads((out / "matrix.json").read_text())["cells"]}


def test_the_contract_on_hosts_of_ones_own(here: Workstation) -> None:
    file = here.lab_file("rack7", login(here))
    out = here.home / "out"
    selection = [word for name in SELECTION for word in ("--requirement", name)]

    done = here.hvconform("run", "--lab", str(file), *selection, "--out", str(out), HVC_LOGIN=PASSWORD, timeout_s=400)

    assert verdicts(out) == dict.fromkeys(SELECTION, "pass"), done.text
    assert done.status == 0
    for path in out.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), f"the password is in {path}"


def test_a_killed_run_is_swept_over_ssh_and_a_foreign_vm_stays(
    here: Workstation, lab: LabInventory, observers: LibvirtObservers
) -> None:
    file = str(here.lab_file("swept", login(here)))
    with observers.host("a").create_canary("canary-of-somebody-else") as canary:
        before = everything(lab, observers)
        arguments = ["-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "suites", "--lab", file]
        arguments += ["--requirement", "reboot.config-survives", "--out", str(here.home / "killed")]
        command = ["nsenter", "-t", str(here.shell.pid), "-a", "--", *here.python(*arguments, HVC_LOGIN=PASSWORD)]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            until(
                "a VM to run",
                lambda: any(entry.kind is Kind.PROCESS for entry in everything(lab, observers) - before),
                seconds=60,
                interval=0.05,
            )
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        assert everything(lab, observers) != before, "the run left nothing, so the sweep would prove nothing"

        swept = here.hvconform("sweep", "--lab", file, HVC_LOGIN=PASSWORD)

        assert swept.status == 0, swept.text + swept.stderr.decode()
        assert not everything(lab, observers) ^ before
        assert canary.uuid in {domain.uuid for domain in observers.host("a").domains() if domain.running}


def wrong_ssh_key(here: Workstation) -> Mapping[str, Any]:
    key = here.home / "wrong"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return login(here, uris={"a": f"{here.uri('a', 'ssh')}?keyfile={key}"})


def wrong_ca(here: Workstation) -> Mapping[str, Any]:
    certificates.write(here.home / "other-pki", {here.cell.hostname("b"): []})
    uri = f"qemu+tls://{here.cell.hostname('b')}/system?pkipath={here.home / 'other-pki'}"
    return login(here, uris={"b": uri})


WRONG: dict[str, tuple[Callable[[Workstation], Mapping[str, Any]], str, str]] = {
    "ssh key": (
        wrong_ssh_key,
        r"AccessDenied: qemu\+ssh://10\.200\.0\.1/system: .*Permission denied",
        "ssh -o BatchMode=yes",
    ),
    "host key": (
        lambda here: login(here, uris={"a": f"qemu+ssh://root@{here.cell.hostname('a')}/system"}),
        "AccessDenied: .*Host key verification failed",
        "ssh -o BatchMode=yes",
    ),
    "certificate": (wrong_ca, r"AccessDenied: qemu\+tls://.*ertificate", "certificates of one CA"),
    "password": (
        lambda here: login(here, user="nobody"),
        r"AccessDenied: qemu\+tls://.*authentication failed",
        "'nobody' may log in",
    ),
    "no host": (
        lambda here: login(here, uris={"a": "qemu+ssh://root@10.200.0.77/system"}),
        "HostUnreachable: .*No route to host",
        "ssh -o BatchMode=yes",
    ),
}
"""What is wrong in the target's options, what is said, and the way out."""


@pytest.mark.parametrize("wrong", WRONG)
def test_a_login_that_does_not_work_is_one_message(wrong: str, here: Workstation) -> None:
    options, said, hint = WRONG[wrong]
    file = here.lab_file("wrong", options(here))

    told(here.hvconform("run", "--lab", str(file), HVC_LOGIN=PASSWORD), said, hint)


def test_no_password_in_the_environment_is_one_message(here: Workstation) -> None:
    file = here.lab_file("wrong", login(here))

    told(here.hvconform("run", "--lab", str(file)), "no password for qemu\\+", "HVC_LOGIN")


def test_probes_that_may_not_log_in_are_one_message(here: Workstation) -> None:
    wrong_ssh_key(here)
    file = here.lab_file("wrong", login(here), key_file=here.home / "wrong")

    told(
        here.hvconform("run", "--lab", str(file), HVC_LOGIN=PASSWORD),
        "host a: root@10.200.0.1 port 22 answers, and refuses the key",
        "ssh -p 22 root@10.200.0.1 true",
    )


def told(done: Completed, said: str, hint: str) -> None:
    text = done.stderr.decode()
    assert done.status == 6, text
    assert len(text.splitlines()) <= 8, text
    assert re.match(f"hvconform: .*{said}", text, re.DOTALL), text
    assert hint in text.partition("try: ")[2], text
    assert "Traceback" not in text
    assert PASSWORD not in text
