"""Cmdlets of PowerShell itself: filtering, and the jobs of a session."""

from __future__ import annotations

import json
from collections.abc import Iterable

from labs.hyperv_double.engine import ErrorRecord
from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import REGISTRY, Call, Item, cmdlet, none
from labs.hyperv_double.model.site import Job
from labs.simulated.world.errors import HypervisorError

PS = "microsoft.powershell.core"


def _text(value: object) -> str:
    return str(value).casefold()


@cmdlet("Where-Object", "Property", "Value", "EQ", "NE", "In", "Like", "InputObject", module=PS)
def where_object(call: Call) -> Iterable[Item]:
    """Comparison statement form. Comparisons do not mind case."""
    name, value = str(call.need("Property")), call.get("Value")
    if call.switch("EQ"):
        return [item for item in call.items or () if _text(item.get(name)) == _text(value)]
    if call.switch("NE"):
        return [item for item in call.items or () if _text(item.get(name)) != _text(value)]
    if call.switch("In"):
        wanted = {_text(each) for each in (value if isinstance(value, list) else [value])}
        return [item for item in call.items or () if _text(item.get(name)) in wanted]
    raise errors.invalid(call.name, "the model compares with -EQ, -NE and -In")


UTILITY = "microsoft.powershell.utility"


@cmdlet("Select-Object", "Property", "First", module=UTILITY)
def select_object(call: Call) -> Iterable[Item]:
    """Some properties of each object, or the first objects."""
    items = list(call.items or ())
    items = items[: call.number("First")] if call.has("First") else items
    if not call.has("Property"):
        return items
    given = call.get("Property")
    names = [str(name) for name in (given if isinstance(given, list) else [given])]
    return [Item("Selected", item.ref, {name: _property(item, name) for name in names}) for item in items]


def _property(item: Item, name: str) -> object:
    return next((value for key, value in item.items() if key.lower() == name.lower()), None)


@cmdlet("ConvertTo-Json", "Compress", "Depth", module=UTILITY)
def convert_to_json(call: Call) -> Iterable[Item]:
    """One text: of an object, or of an array where there are several; none where there is none."""
    rows = [dict(item) for item in call.items or ()]
    if rows:
        text = json.dumps(rows if len(rows) > 1 else rows[0], separators=(",", ":"))
        yield Item("Text", text, {})


@cmdlet("Get-Command", "Name", "Module", module=PS)
def get_command(call: Call) -> Iterable[Item]:
    """The cmdlets that there are, with the names of their parameters."""
    wanted = call.get("Name")
    names = [_text(each) for each in (wanted if isinstance(wanted, list) else [wanted])] if wanted else list(REGISTRY)
    for name in names:
        found = REGISTRY.get(name)
        if found is None:
            raise errors.unknown_cmdlet(name)
        yield Item("Command", found, {"Name": found.name, "Parameters": dict.fromkeys(sorted(found.parameters), "")})


def _jobs(call: Call) -> list[Job]:
    """The jobs meant, by ``-Id`` or through the pipeline; of this session only."""
    mine = call.model.site.jobs.get(call.session.id, {})
    if not call.has("Id"):
        return call.refs("Job") if call.items is not None else list(mine.values())
    number = call.number("Id")
    if number not in mine:
        raise errors.CmdletError(
            ErrorRecord(
                f"The command cannot find a job with the job ID {number}.",
                f"JobWithSpecifiedSessionNotFound,Microsoft.PowerShell.Commands.{call.name.replace('-', '')}Command",
                "ObjectNotFound",
                0x80131501,
                "System.Management.Automation.PSArgumentException",
            )
        )
    return [mine[number]]


@cmdlet("Get-Job", "Id", module=PS)
def get_job(call: Call) -> Iterable[Item]:
    """Jobs of this session, with their progress records."""
    for job in _jobs(call):
        progress = [{"PercentComplete": job.percent()}]
        yield Item(
            "Job",
            job,
            {"Id": job.id, "Name": f"Job{job.id}", "Command": job.command, "State": job.state, "Progress": progress},
        )


@cmdlet("Receive-Job", "Id", "Keep", module=PS)
def receive_job(call: Call) -> Iterable[Item]:
    """What a job wrote; its error is raised again."""
    for job in _jobs(call):
        error = job.task.error
        if isinstance(error, HypervisorError):
            raise errors.translated(job.command, error)
        if error is not None:
            raise error
        if call.model.knobs.completes_with_warnings:
            call.warnings.append("The operation completed with warnings: some settings were not applied. (32768)")
        yield from job.task.result or ()


@cmdlet("Stop-Job", "Id", module=PS)
def stop_job(call: Call) -> Iterable[Item]:
    """Cancels what the job does on the host."""
    for job in _jobs(call):
        if not job.task.done:
            job.stopped = True
            job.task.cancel(HypervisorError("aborted", "The operation was canceled"))
    return none()


@cmdlet("Remove-Job", "Id", module=PS)
def remove_job(call: Call) -> Iterable[Item]:
    """Forgets jobs; one that runs needs ``-Force``, which stops it."""
    for job in _jobs(call):
        if not job.task.done:
            if not call.switch("Force"):
                raise errors.invalid(call.name, f"The job with ID {job.id} is not finished.")
            job.task.cancel(HypervisorError("aborted", "The operation was canceled"))
        call.model.site.jobs[call.session.id].pop(job.id, None)
    return none()
