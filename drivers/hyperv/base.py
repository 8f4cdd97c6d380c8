"""What every part of the driver stands on: finding a VM, its state, asking a host, and jobs on it."""

from __future__ import annotations

import uuid
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, TypeVar

from conformance.driver import Driver, Operation
from conformance.errors import (
    Busy,
    DriverError,
    HostUnreachable,
    HypervisorFailure,
    InvalidRequest,
    InvalidState,
    NotFound,
)
from conformance.lab.inventory import LabInventory, Storage, Target
from conformance.model import PowerState, Progress
from drivers.hyperv import naming
from drivers.hyperv.hosts import Hosts
from drivers.hyperv.operations import Polled, Steps, UnderWay
from drivers.hyperv.options import Options
from drivers.hyperv.transport.base import Command, JsonValue, RemoteError

T = TypeVar("T")
Row = dict[str, Any]
Rows = list[Row]
"""One mapping of properties for each object that a pipeline wrote."""

VM_FIELDS = (
    "Id",
    "Name",
    "State",
    "Notes",
    "ProcessorCount",
    "MemoryStartup",
    "Generation",
    "OperationalStatus",
    "Path",
)

STATES: Mapping[str, PowerState] = {
    "Running": PowerState.RUNNING,
    "RunningCritical": PowerState.RUNNING,
    "Off": PowerState.STOPPED,
    "OffCritical": PowerState.STOPPED,
    "Paused": PowerState.PAUSED,
    "PausedCritical": PowerState.PAUSED,
    "Saved": PowerState.SUSPENDED,
    "SavedCritical": PowerState.SUSPENDED,
    "FastSaved": PowerState.SUSPENDED,
    "FastSavedCritical": PowerState.SUSPENDED,
}
"""VMState of the Hyper-V module; all others (Starting, Saving, Resetting...) pass by themselves."""

AT_WORK = {
    "MergingDisks",
    "CreatingSnapshot",
    "ApplyingSnapshot",
    "DeletingSnapshot",
    "MigratingVirtualMachine",
    "ExportingVirtualMachine",
    "BackingUpVirtualMachine",
    "StorageMigrationPhaseOne",
    "StorageMigrationPhaseTwo",
}
"""VMOperationalStatus: something is under way with the VM."""

OFF = (PowerState.STOPPED, PowerState.CRASHED)


@dataclass(frozen=True, slots=True)
class Located:
    """A VM of ours: its id, the host it is on, and what Get-VM says of it."""

    vm: str
    host: str
    row: Row

    @property
    def power(self) -> PowerState:
        return STATES.get(str(self.row["State"]), PowerState.TRANSIENT)

    @property
    def name(self) -> str:
        return str(self.row["Name"])

    @property
    def folder(self) -> str:
        """The folder of the VM's configuration, with all that it owns."""
        return str(self.row["Path"])

    @property
    def at_work(self) -> set[str]:
        return AT_WORK & {str(word) for word in listed(self.row.get("OperationalStatus"))}

    def pipe(self, *commands: Command) -> list[Command]:
        """A pipeline that begins with this VM, found by its id and by nothing else."""
        return [Command("Get-VM", {"Id": self.vm}), *commands]


def listed(value: JsonValue) -> list[Any]:
    """A value that may be a list, one thing or nothing, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


class Base(Driver, ABC):
    """Shared by the parts of the driver, each of which adds the methods of one facet."""

    def __init__(self, lab: LabInventory, target: Target, options: Options, hosts: Hosts) -> None:
        self._lab = lab
        self._target = target
        self._options = options
        self._hosts = hosts
        self._under_way = UnderWay()
        self._last: dict[str, str] = {}

    # asking

    @contextmanager
    def _about(self, operation: str, vm: str | None, host: str = "") -> Iterator[None]:
        """Say in errors which call and which VM they are about; a transport knows neither."""
        try:
            yield
        except DriverError as error:
            error.operation = error.operation or operation
            error.vm = error.vm or vm
            error.host = error.host or host
            raise

    def _ask(self, host: str, *pipeline: Command, select: Sequence[str] = (), depth: int = 2) -> Rows:
        """Run a pipeline on a host; a row for each object."""
        try:
            return self._hosts.ask(host, pipeline, select, depth).objects
        except InvalidRequest as error:
            cause = error.__cause__
            if isinstance(cause, RemoteError) and cause.error_id.endswith(".GetVM") and "Id" in pipeline[0].parameters:
                # for a VM that is not there Get-VM complains of its argument, not of the object
                raise NotFound(error.message, host=host, code=error.code) from cause
            raise

    def _ask_jobs(self, host: str, *pipeline: Command, select: Sequence[str] = ()) -> Rows:
        """The same in the one session of the host that holds our jobs."""
        return self._hosts.ask_in_turn(host, pipeline, select).objects

    def _vm_ask(
        self, here: Located, operation: str, *commands: Command, select: Sequence[str] = (), depth: int = 2
    ) -> Rows:
        """Run a pipeline that begins with this VM. An `InvalidState` says what state the VM is in."""
        try:
            with self._about(operation, here.vm, here.host):
                return self._ask(here.host, *here.pipe(*commands), select=select, depth=depth)
        except InvalidState as error:
            now = self._again(here)
            if now.at_work:
                raise Busy(
                    f"{error.message} ({', '.join(sorted(now.at_work))})",
                    operation=operation,
                    vm=here.vm,
                    code=error.code,
                ) from error
            error.current = now.power
            raise

    def _cim(self, host: str, query: Mapping[str, JsonValue], method: str, arguments: dict[str, JsonValue]) -> int:
        """Call a WMI method of the one instance that `query` finds; returns its return value."""
        made = self._ask(
            host,
            Command("Get-CimInstance", {"Namespace": "root/virtualization/v2", **query}),
            Command("Invoke-CimMethod", {"MethodName": method, "Arguments": arguments}),
            select=("ReturnValue",),
        )
        if not made:
            raise NotFound(f"no instance of {query['ClassName']} to call {method} of", host=host)
        return int(made[0]["ReturnValue"])

    # jobs

    def _job(
        self,
        host: str,
        *pipeline: Command,
        phase: str,
        select: Sequence[str] = (),
        began: Callable[[int], None] | None = None,
    ) -> Steps[Rows]:
        """Run a pipeline whose last cmdlet takes ``-AsJob``, and look after the job until it ends.

        Args:
            phase: What to call it in progress.
            began: Told the job's id, for aborting.
        """
        last = pipeline[-1]
        started = self._ask_jobs(
            host, *pipeline[:-1], Command(last.cmdlet, {**last.parameters, "AsJob": True}), select=("Id",)
        )
        if not started:
            raise HypervisorFailure(f"{last.cmdlet} began no job", host=host)
        job: dict[str, JsonValue] = {"Id": started[0]["Id"]}
        if began is not None:
            began(started[0]["Id"])
        try:
            while True:
                seen = self._ask_jobs(host, Command("Get-Job", job), select=("State", "Progress.PercentComplete"))
                state = str(seen[0]["State"])
                if state not in ("NotStarted", "Running"):
                    break
                done = [word for word in listed(seen[0]["Progress.PercentComplete"]) if isinstance(word, int)]
                yield Progress(min(0.99, max(done, default=0) / 100), phase)
            made = self._ask_jobs(host, Command("Receive-Job", job), select=select)
            if state == "Stopped":
                raise HypervisorFailure(f"{last.cmdlet} was stopped", host=host)
            return made
        finally:
            with suppress(DriverError):
                self._ask_jobs(host, Command("Remove-Job", {**job, "Force": True}))

    def _vm_job(
        self, here: Located, operation: str, *commands: Command, phase: str, select: Sequence[str] = ()
    ) -> Steps[Rows]:
        with self._about(operation, here.vm, here.host):
            return (yield from self._job(here.host, *here.pipe(*commands), phase=phase, select=select))

    def _run(
        self,
        operation: str,
        vm: str | None,
        steps: Steps[T],
        *,
        abandon: bool = False,
        abort: Callable[[], None] | None = None,
    ) -> Operation[T]:
        """Steps as an operation."""
        number = self._under_way.begin()
        made = Polled(
            self._told(operation, vm, steps),
            operation=operation,
            vm=vm,
            abandon=abandon,
            abort=abort,
            at_end=lambda: self._under_way.end(number),
        )
        self._under_way.keep(number, made)
        return made

    def _told(self, operation: str, vm: str | None, steps: Steps[T]) -> Steps[T]:
        with self._about(operation, vm):
            return (yield from steps)

    # finding

    def _locate(self, vm: str, operation: str) -> Located:
        """The VM behind an id.

        Raises:
            NotFound: No host has it, or the one that has it did not get it from this driver.
            HostUnreachable: It is on none of the hosts that answer, but some do not.
        """
        try:
            id = str(uuid.UUID(vm))
        except (ValueError, AttributeError, TypeError):
            raise NotFound(f"{vm!r} is not an id of this driver", operation=operation, vm=str(vm)) from None
        silent: HostUnreachable | None = None
        for host in sorted(self._hosts.names, key=lambda name: name != self._last.get(id)):
            try:
                here = self._lookup(host, id)
            except HostUnreachable as error:
                silent = error
                continue
            if here is not None:
                self._last[id] = host
                return here
        if silent is not None:
            raise HostUnreachable(
                f"not on the hosts that answer; {silent.message}", operation=operation, vm=vm, host=silent.host
            )
        raise NotFound("no such VM", operation=operation, vm=vm)

    def _lookup(self, host: str, id: str, *, ours: bool = True) -> Located | None:
        """A VM on one host; with `ours` only one that bears this target's mark."""
        try:
            with self._about("lookup", id, host):
                (row,) = self._ask(host, Command("Get-VM", {"Id": id}), select=VM_FIELDS)
        except NotFound:
            return None
        return Located(id, host, row) if self._is_ours(row) or not ours else None

    def _again(self, here: Located) -> Located:
        """The same VM as it is now, on the host where it was."""
        found = self._lookup(here.host, here.vm)
        if found is None:
            raise NotFound("the VM is gone", vm=here.vm, host=here.host)
        return found

    def _is_ours(self, row: Row) -> bool:
        marked = naming.parse_notes(row["Notes"])
        return marked is not None and marked[0] == self._target.slug

    def _all(self) -> Iterator[Located]:
        """Every VM of ours on every host."""
        for host in self._hosts.names:
            with self._about("list", None, host):
                rows = self._ask(host, Command("Get-VM"), select=VM_FIELDS)
            yield from (Located(str(row["Id"]), host, row) for row in rows if self._is_ours(row))

    def find(self, name: str) -> str:
        for here in self._all():
            if here.name == name:
                return here.vm
        raise NotFound(f"no VM named {name!r}", operation="find", vm=name)

    def list(self) -> Sequence[str]:
        return tuple(dict.fromkeys(here.vm for here in self._all()))

    # states

    def _require(self, here: Located, allowed: Iterable[PowerState], operation: str) -> PowerState:
        """The VM's state; raises `InvalidState` unless it is an allowed one, `Busy` while it passes."""
        if here.power is PowerState.TRANSIENT:
            raise Busy(f"the VM is {here.row['State']}", operation=operation, vm=here.vm, host=here.host)
        if here.power not in allowed:
            raise InvalidState(current=here.power, allowed=allowed, operation=operation, vm=here.vm, host=here.host)
        return here.power

    def _idle(self, here: Located, operation: str) -> None:
        """Raises `Busy` while something else is under way with the VM."""
        if here.at_work:
            raise Busy(f"under way: {', '.join(sorted(here.at_work))}", operation=operation, vm=here.vm, host=here.host)

    def _settled(self, here: Located, phase: str) -> Steps[Located]:
        """Wait until nothing is under way with the VM: checkpoints merge after their removal has been reported."""
        while True:
            here = self._again(here)
            if not here.at_work:
                return here
            yield Progress(0.5, phase)

    # places

    def _storage(self, name: str, operation: str) -> Storage:
        """A storage by its lab name; empty: the first shared one, else the first."""
        if not name:
            return next((item for item in self._lab.storages if item.shared), self._lab.storages[0])
        for item in self._lab.storages:
            if item.name == name:
                return item
        raise InvalidRequest(f"no storage {name!r}", operation=operation)

    def _storage_of(self, path: str) -> Storage | None:
        """The storage that a file lies in, however deep."""
        folded = path.replace("/", "\\").casefold()
        for item in self._lab.storages:
            if folded.startswith(root(item).casefold() + "\\"):
                return item
        return None


def root(storage: Storage) -> str:
    """A storage's folder as Windows writes it."""
    return str(storage.path).replace("/", "\\").rstrip("\\")


def join(folder: str, *names: str) -> str:
    return str(PureWindowsPath(folder, *names))
