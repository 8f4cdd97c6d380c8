"""Checkpoints: production where no memory is asked for, standard where it is; what came out is looked at.

Hyper-V makes a standard checkpoint where it cannot make a production one, without a word. Where quiescing was asked for
that is an error (ProductionOnly); where only the disks matter it is taken, and its memory is thrown away by a revert.
"""

from __future__ import annotations

from collections.abc import Sequence

from conformance.driver import Operation
from conformance.errors import Exists, HypervisorFailure, InvalidRequest, InvalidState, NotFound, Unsupported
from conformance.model import PowerState, Progress, SnapshotState
from drivers.hyperv import naming
from drivers.hyperv.base import OFF, Located, Row, Rows
from drivers.hyperv.operations import Steps
from drivers.hyperv.power import Power
from drivers.hyperv.transport.base import Command

MEMORY, PAUSED, DISK = "m:", "p:", "d:"
"""How the name of a checkpoint begins: with memory, with that of a paused VM, or to be reverted to without memory."""

FIELDS = ("Id", "Name", "State", "ParentSnapshotId", "CreationTime")
RUNNING = PowerState.RUNNING


def plain(name: object) -> str:
    """A checkpoint's name as it was asked for; one that somebody else made has no mark."""
    text = str(name)
    return text[2:] if text[:2] in (MEMORY, PAUSED, DISK) else text


def has_memory(row: Row) -> bool:
    """Whether a checkpoint holds memory: a production checkpoint, or one of a stopped VM, is Off."""
    return str(row["State"]) != "Off"


class Checkpoints(Power):
    """The facet Snapshots."""

    def snapshot(
        self, vm: str, name: str, *, memory: bool = False, quiesce: bool = False, exclude: Sequence[str] = ()
    ) -> Operation[str]:
        here = self._locate(vm, "snapshot")
        if exclude:
            raise Unsupported(capability="snapshot.exclude-disk", operation="snapshot", vm=vm, host=here.host)
        if memory and quiesce:
            raise InvalidRequest("a checkpoint with memory has no need to quiesce", operation="snapshot", vm=vm)
        powered = (RUNNING,) if quiesce else (RUNNING, PowerState.PAUSED)
        power = self._require(here, powered if memory or quiesce else (*powered, *OFF), "snapshot")
        self._idle(here, "snapshot")
        if any(plain(row["Name"]) == name for row in self._checkpoints(here)):
            raise Exists(f"there is a snapshot {name!r} already", operation="snapshot", vm=vm)
        kind = "Standard" if memory else "ProductionOnly" if quiesce else "Production"
        mark = DISK if not memory else PAUSED if power is PowerState.PAUSED else MEMORY
        return self._run("snapshot", vm, self._taking(here, mark + name, kind))

    def _taking(self, here: Located, name: str, kind: str) -> Steps[str]:
        self._vm_ask(here, "snapshot", Command("Set-VM", {"CheckpointType": kind}))
        made = yield from self._vm_job(
            here,
            "snapshot",
            Command("Checkpoint-VM", {"SnapshotName": name, "Passthru": True}),
            phase="taking the checkpoint",
            select=FIELDS,
        )
        here = yield from self._settled(here, "taking the checkpoint")
        if not made:
            raise HypervisorFailure("no checkpoint was made", operation="snapshot", vm=here.vm, host=here.host)
        (row,) = made
        if kind != "Production" and here.power not in OFF and has_memory(row) != (kind == "Standard"):
            yield from self._forget(here, str(row["Id"]))
            got = "with" if has_memory(row) else "without"
            raise HypervisorFailure(
                f"a {kind} checkpoint was asked for, and Hyper-V made one {got} memory",
                operation="snapshot",
                vm=here.vm,
                host=here.host,
            )
        return str(row["Id"])

    def _checkpoints(self, here: Located) -> Rows:
        rows = self._vm_ask(here, "snapshots", Command("Get-VMSnapshot"), select=FIELDS)
        return sorted(rows, key=lambda row: str(row["CreationTime"]))

    def _checkpoint(self, here: Located, id: str, operation: str) -> Row:
        for row in self._checkpoints(here):
            if str(row["Id"]).lower() == id.lower():
                return row
        raise NotFound(f"no snapshot {id}", operation=operation, vm=here.vm, host=here.host)

    def snapshots(self, vm: str) -> Sequence[SnapshotState]:
        rows = self._checkpoints(self._locate(vm, "snapshots"))
        known = {str(row["Id"]) for row in rows}
        return [
            SnapshotState(
                id=str(row["Id"]),
                name=plain(row["Name"]),
                parent=parent if (parent := str(row["ParentSnapshotId"])) in known else None,
                memory=not str(row["Name"]).startswith(DISK),
            )
            for row in rows
        ]

    def revert(self, vm: str, snapshot: str) -> Operation[None]:
        here = self._locate(vm, "revert")
        wanted = self._checkpoint(here, snapshot, "revert")
        self._require(here, (RUNNING, PowerState.PAUSED, PowerState.SUSPENDED, *OFF), "revert")
        self._idle(here, "revert")
        self._check_volumes(here, wanted)
        return self._run("revert", vm, self._reverting(here, wanted))

    def _check_volumes(self, here: Located, wanted: Row) -> None:
        """A revert attaches the volumes of then and writes them back: refused where that is not what is attached."""
        then = self._volume_ids(here, self._snapshot_pipe(here, wanted))
        now = self._volume_ids(here, [])
        if missing := then - now:
            raise InvalidState(
                f"the checkpoint holds volumes that are not attached now: {', '.join(sorted(missing))}",
                current="detached",
                allowed=("attached",),
                operation="revert",
                vm=here.vm,
            )

    def _volume_ids(self, here: Located, before: list[Command]) -> set[str]:
        rows = self._vm_ask(here, "revert", *before, Command("Get-VMHardDiskDrive"), select=("Path",))
        found = (naming.parse_volume_file(str(row["Path"] or "")) for row in rows)
        return {volume[0] for volume in found if volume}

    @staticmethod
    def _snapshot_pipe(here: Located, row: Row) -> list[Command]:  # noqa: ARG004 - a pipeline begins with its VM
        """What goes from the VM to one of its checkpoints, by id."""
        return [
            Command("Get-VMSnapshot"),
            Command("Where-Object", {"Property": "Id", "EQ": True, "Value": str(row["Id"])}),
        ]

    def _reverting(self, here: Located, wanted: Row) -> Steps[None]:
        was = here.power
        yield from self._vm_job(
            here,
            "revert",
            *self._snapshot_pipe(here, wanted),
            Command("Restore-VMSnapshot"),
            phase="applying the checkpoint",
        )
        here = yield from self._settled(here, "applying the checkpoint")
        with_memory = not str(wanted["Name"]).startswith(DISK)
        if with_memory:
            if here.power is not PowerState.SUSPENDED:
                raise HypervisorFailure(
                    f"the checkpoint has memory, and the VM is {here.power}", operation="revert", vm=here.vm
                )
            yield from self._starting(here, "revert")
            if str(wanted["Name"]).startswith(PAUSED):
                self._vm_ask(here, "revert", Command("Suspend-VM"))
            return
        if here.power is PowerState.SUSPENDED:
            # a standard checkpoint where a production one could not be had
            self._vm_ask(here, "revert", Command("Remove-VMSavedState"))
        if was in (RUNNING, PowerState.PAUSED):
            yield from self._starting(here, "revert")
            if was is PowerState.PAUSED:
                self._vm_ask(here, "revert", Command("Suspend-VM"))

    def delete_snapshot(self, vm: str, snapshot: str) -> Operation[None]:
        here = self._locate(vm, "delete_snapshot")
        self._checkpoint(here, snapshot, "delete_snapshot")
        self._idle(here, "delete_snapshot")
        return self._run("delete_snapshot", vm, self._forget(here, snapshot))

    def _forget(self, here: Located, snapshot: str) -> Steps[None]:
        """Remove a checkpoint; over when its layers have merged, which goes on after the cmdlet has ended."""
        yield from self._vm_job(
            here,
            "delete_snapshot",
            Command("Get-VMSnapshot"),
            Command("Where-Object", {"Property": "Id", "EQ": True, "Value": snapshot}),
            Command("Remove-VMSnapshot"),
            phase="removing the checkpoint",
        )
        while True:
            here = yield from self._settled(here, "merging")
            if all(str(row["Id"]).lower() != snapshot.lower() for row in self._checkpoints(here)):
                return
            yield Progress(0.9, "merging")
