"""Migration by Move-VM: live and off, with and without storage. Compare-VM is asked first; a failure leaves the source.

A migration led from here is a double hop: this machine, the source, the target. The source can log in to the target
only with credentials that were delegated to it (CredSSP), or by Kerberos constrained delegation between the hosts.
Where neither can be, migration is not offered at all, instead of failing in its middle with 0x8009030E.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from conformance.driver import LIVE, Operation
from conformance.errors import DriverError, HypervisorFailure, InvalidRequest, Unsupported
from conformance.model import MigrateOptions, PowerState, Progress
from drivers.hyperv import naming
from drivers.hyperv.base import OFF, Located, join, listed, root
from drivers.hyperv.console import ConsoleLog
from drivers.hyperv.create import Create
from drivers.hyperv.operations import Steps
from drivers.hyperv.transport.base import Command, JsonValue


@dataclass(frozen=True, slots=True)
class Move:
    """One migration; `folder` is where the disks go, empty when they stay."""

    here: Located
    host: str
    options: MigrateOptions
    folder: str

    @property
    def destination(self) -> dict[str, JsonValue]:
        if not self.folder:
            return {}
        return {"IncludeStorage": True, "DestinationStoragePath": self.folder}


class Migration(ConsoleLog, Create):
    """The facet Migrate."""

    def _hindrance(self) -> str:
        """Why no migration between the hosts can work, as far as their settings tell; empty when it can."""
        if len(self._hosts.names) < 2:
            return "the target has one host"
        for host in self._hosts.names:
            enabled, authentication = self._hosts.once(host, "migration", partial(self._migration_settings, host))
            if not enabled:
                return f"live migrations are not enabled on {host} (Enable-VMMigration)"
            if authentication == "CredSSP" and not self._hosts.delegates(host):
                return (
                    f"{host} takes migrations with CredSSP, and this login cannot be passed on: use auth = 'credssp', "
                    "or Set-VMHost -VirtualMachineMigrationAuthenticationType Kerberos with constrained delegation"
                )
        return ""

    def _migration_settings(self, host: str) -> tuple[bool, str]:
        with self._about("capabilities", None, host):
            (row,) = self._ask(
                host,
                Command("Get-VMHost"),
                select=("VirtualMachineMigrationEnabled", "VirtualMachineMigrationAuthenticationType"),
            )
        return bool(row["VirtualMachineMigrationEnabled"]), str(row["VirtualMachineMigrationAuthenticationType"])

    def migrate(self, vm: str, host: str, options: MigrateOptions = LIVE) -> Operation[None]:
        here = self._locate(vm, "migrate")

        def unsupported(capability: str, why: str) -> Unsupported:
            return Unsupported(why, capability=capability, operation="migrate", vm=vm, host=here.host)

        if options.postcopy:
            raise unsupported("migrate.postcopy", "Hyper-V has no post-copy migration")
        if options.uri_family == 6:
            raise unsupported("migrate.ipv6", "which network a migration takes is a setting of the hosts")
        if host not in self._hosts.names:
            raise InvalidRequest(f"no host {host!r}", operation="migrate", vm=vm)
        if host == here.host:
            raise InvalidRequest(f"the VM is on {host} already", operation="migrate", vm=vm, host=host)
        if options.target_storage and not options.copy_storage:
            raise InvalidRequest("target_storage without copy_storage", operation="migrate", vm=vm)
        if hindrance := self._hindrance():
            raise unsupported("migrate.live", hindrance)
        self._require(here, (PowerState.RUNNING, PowerState.PAUSED) if options.live else OFF, "migrate")
        self._idle(here, "migrate")
        move = self._plan_move(here, host, options)
        self._compare(move)
        aborting = _Abort()
        return self._run("migrate", vm, self._moving(move, aborting), abort=lambda: self._abort(move, aborting))

    def _plan_move(self, here: Located, host: str, options: MigrateOptions) -> Move:
        drives = self._vm_ask(here, "migrate", Command("Get-VMHardDiskDrive"), select=("Path",))
        paths = [str(row["Path"] or "") for row in drives]
        stay = [path for path in paths if (place := self._storage_of(path)) is not None and place.shared]
        volumes = [path for path in paths if naming.parse_volume_file(path) is not None]
        copy = options.copy_storage or (not options.live and len(stay) != len(paths))
        if not copy:
            if local := [path for path in paths if path not in stay]:
                raise InvalidRequest(
                    f"{local[0]} is not on shared storage; copy_storage moves it along", operation="migrate", vm=here.vm
                )
            return Move(here, host, options, "")
        if volumes:
            raise InvalidRequest(
                "attached volumes would be moved along with the VM's own disks; detach them",
                operation="migrate",
                vm=here.vm,
            )
        place = self._storage(options.target_storage, "migrate") if options.target_storage else None
        goal = place or self._storage_of(here.folder) or self._storage("", "migrate")
        if goal.shared and self._storage_of(here.folder) == goal:
            raise InvalidRequest(
                "the disks would be copied onto themselves; name another target_storage",
                operation="migrate",
                vm=here.vm,
            )
        marked = naming.parse_notes(here.row["Notes"])
        assert marked is not None
        return Move(here, host, options, join(root(goal), naming.vm_folder(marked[1])))

    def _address(self, host: str) -> str:
        return self._lab.host(host).address

    def _compare(self, move: Move) -> None:
        """Ask the hosts whether it can work; raises `InvalidRequest` with all that speaks against it."""
        rows = self._vm_ask(
            move.here,
            "migrate",
            Command("Compare-VM", {"DestinationHost": self._address(move.host), **move.destination}),
            select=("Incompatibilities.Message", "Incompatibilities.MessageId"),
        )
        against = [str(text) for row in rows for text in listed(row["Incompatibilities.Message"])]
        if against:
            raise InvalidRequest(
                f"{move.host} cannot take the VM: {'; '.join(against)}",
                operation="migrate",
                vm=move.here.vm,
                host=move.host,
                code=str(rows[0]["Incompatibilities.MessageId"]),
            )

    def _moving(self, move: Move, aborting: _Abort) -> Steps[None]:
        here = move.here
        limit = self._limit(move)
        try:
            yield from self._job(
                here.host,
                *here.pipe(
                    Command("Move-VM", {"DestinationHost": self._address(move.host), **move.destination}),
                ),
                phase="migrating",
                began=aborting.began,
            )
        except DriverError as error:
            yield from self._after_failure(move)
            if aborting.asked:
                raise HypervisorFailure(
                    f"aborted on request ({error.message})", operation="migrate", vm=here.vm, host=move.host
                ) from error
            raise
        finally:
            if limit:
                with suppress(DriverError):
                    self._ask(here.host, Command("Remove-NetQosPolicy", {"Name": limit, "Confirm": False}))
        self._last[here.vm] = move.host
        there = self._lookup(move.host, here.vm)
        if there is None:
            raise HypervisorFailure("the VM is not on the target", operation="migrate", vm=here.vm, host=move.host)
        if move.folder and not self._is_same_folder(move):
            # Hyper-V moves the files and leaves the empty folders
            self._remove_folder(here.host, here.folder)
        if move.options.live:
            self._console_begin(there)

    def _is_same_folder(self, move: Move) -> bool:
        """Whether the destination is the very folder that the VM had: the same path, where both hosts see one place."""
        place = self._storage_of(move.here.folder)
        return naming.same_path(move.here.folder, move.folder) and place is not None and place.shared

    def _limit(self, move: Move) -> str:
        """Slow migrations of this host down, where asked for; Move-VM has no parameter for it. Returns the policy."""
        if not move.options.bandwidth_mib_s:
            return ""
        name = f"hvc-{move.here.vm}"
        self._ask(
            move.here.host,
            Command(
                "New-NetQosPolicy",
                {
                    "Name": name,
                    "LiveMigration": True,
                    "ThrottleRateActionBitsPerSecond": move.options.bandwidth_mib_s * 8 << 20,
                },
            ),
        )
        return name

    def _abort(self, move: Move, aborting: _Abort) -> None:
        aborting.asked = True
        if aborting.job is not None:
            with self._about("migrate", move.here.vm, move.here.host):
                self._ask_jobs(move.here.host, Command("Stop-Job", {"Id": aborting.job}))

    def _after_failure(self, move: Move) -> Steps[None]:
        """Wait until the hosts have cleaned up, and remove what a copy of the disks left on the target."""
        with suppress(DriverError):
            yield from self._settled(move.here, "rolling back")
        if not move.folder:
            return
        with suppress(DriverError):
            here = self._lookup(move.here.host, move.here.vm)
            there = self._lookup(move.host, move.here.vm)
            if here is not None and there is None and not self._is_same_folder(move):
                self._remove_folder(move.host, move.folder)
        yield Progress(0.0, "rolled back")


class _Abort:
    """Whether the migration was asked to stop, and the job to be stopped."""

    def __init__(self) -> None:
        self.job: int | None = None
        self.asked = False

    def began(self, job: int) -> None:
        self.job = job
