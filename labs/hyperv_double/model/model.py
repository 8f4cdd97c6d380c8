"""The model of one host as the endpoint sees it: runs pipelines of cmdlets."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from labs.hyperv_double.engine import Command, Outcome, Session
from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import REGISTRY, Call, Item, Work
from labs.hyperv_double.model.errors import CmdletError
from labs.hyperv_double.model.site import Job, Knobs, Site
from labs.simulated.world.clock import Steps, Task
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host

PATIENCE_S = 3600.0
"""How long a cmdlet without ``-AsJob`` may take, by the world's clock."""

_NEEDS_VMMS = ("vm", "vhd", "checkpoint")


class Model:
    """One host. Implements `labs.hyperv_double.engine.Engine`.

    Args:
        site: All hosts.
        name: This one's lab name.
    """

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name

    @property
    def host(self) -> Host:
        return self.site.world.hosts[self.name]

    @property
    def knobs(self) -> Knobs:
        return self.site.knobs[self.name]

    def run(self, session: Session, pipeline: Sequence[Command], *, stop: threading.Event) -> Outcome:  # noqa: ARG002
        """Carry a pipeline out: one element after the other. Nothing here takes real time, so nothing is stopped."""
        warnings: list[str] = []
        items: Sequence[Item] | None = None
        with self.site.world.clock.lock:
            for command in pipeline:
                call = Call(self, session, command, items, warnings)
                try:
                    items = self._one(call)
                except CmdletError as error:
                    return Outcome((), warnings, error.record)
                except HypervisorError as error:
                    return Outcome((), warnings, errors.translated(command.name, error).record)
        shown = [item.ref if item.kind == "Text" else dict(item) for item in items or ()]
        return Outcome(shown, warnings)

    def _one(self, call: Call) -> Sequence[Item]:
        found = REGISTRY.get(call.name.lower())
        if found is None:
            raise errors.unknown_cmdlet(call.name)
        found.check(call)
        noun = call.name.partition("-")[2].lower()
        if not self.host.management_up and noun.startswith(_NEEDS_VMMS):
            raise errors.translated(
                call.name,
                HypervisorError("unreachable", "The Hyper-V Virtual Machine Management service is not running"),
            )
        done = found.handler(call)
        if not isinstance(done, Work):
            return list(done)
        if call.switch("AsJob"):
            return [self._job(call, done)]
        task = self._launch(done)
        if not self.site.world.clock.wait_for(lambda: task.done, PATIENCE_S):
            raise HypervisorError("aborted", "the operation takes too long")
        if task.error is not None:
            raise task.error
        return list(task.result or ()) if call.switch("Passthru") or found.name.startswith("Compare") else []

    def _launch(self, work: Work) -> Task[Sequence[Item]]:
        if work.domain is None:
            return Task(self.site.world.clock, work.steps)
        try:
            return self.site.hypervisor.job(work.domain, work.name, work.steps)
        except HypervisorError as error:
            return Task(self.site.world.clock, _failing(error))

    def _job(self, call: Call, work: Work) -> Item:
        number = next(self.site.numbers)
        job = Job(number, call.name, self._launch(work), lambda: work.percent)
        self.site.jobs.setdefault(call.session.id, {})[number] = job
        return Item("Job", job, {"Id": number, "Name": f"Job{number}", "Command": call.name, "State": job.state})


def _failing(error: HypervisorError) -> Steps[Sequence[Item]]:
    raise error
    yield 0.0
