"""What is kept on a failure: consoles, host logs, the driver's last calls and what the hosts show."""

from __future__ import annotations

from collections.abc import Callable

import allure
import pytest

from conformance.errors import LabError
from conformance.plugin.plan import CELL
from conformance.plugin.verdicts import Outcome
from conformance.plugin.worker import Worker
from conformance.record import Attachment, bounded

_MACHINES = 6


def attach(worker: Worker, item: pytest.Item, outcome: Outcome) -> None:
    """Attach everything to the record and to the Allure result; what cannot be looked at says why."""
    opened = worker.opened(item.stash[CELL].target)
    _keep(worker, item, "driver calls", lambda: "\n".join(opened.tape.history))
    _keep(worker, item, "domains on the hosts", lambda: _domains(worker))
    machines = list({machine.uuid: machine for made in outcome.machines for machine in made.made}.values())
    for machine in machines[-_MACHINES:]:
        _keep(worker, item, f"console of {machine.spec.name}", lambda uuid=machine.uuid: _console(worker, uuid))  # type: ignore[misc]
    for host, since in outcome.marks.items():
        probe = worker.observers.host(host)
        _keep(worker, item, f"log of {host}", lambda probe=probe, since=since: probe.log_since(since))  # type: ignore[misc]


def _keep(worker: Worker, item: pytest.Item, name: str, look: Callable[[], str]) -> None:
    try:
        text = look()
    except LabError as error:
        text = f"not to be had: {error}"
    if not text:
        return
    text = bounded(worker.mask(text))
    worker.recorder.write(Attachment(item=item.nodeid, name=name, text=text))
    allure.attach(text, name, allure.attachment_type.TEXT)


def _domains(worker: Worker) -> str:
    seen = [domain for host in worker.lab.hosts for domain in worker.observers.host(host.name).domains()]
    return "\n".join(
        f"{domain.host}: {domain.name} {domain.uuid} running={domain.running} paused={domain.paused} pid={domain.pid}"
        for domain in seen
    )


def _console(worker: Worker, uuid: str) -> str:
    tails = (worker.observers.host(host.name).console_tail(uuid) for host in worker.lab.hosts)
    return "\n".join(tail.decode(errors="replace") for tail in tails if tail)
