"""What one process of a run holds: its leased lab, the observers, one recorded driver a target, ledgers, the record."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from conformance import paths
from conformance.driver import Driver
from conformance.errors import DriverError, HarnessError, LabError, NotObserved
from conformance.lab import labs, leases, sweep
from conformance.lab.inventory import LabInventory, Target
from conformance.lab.lab import Observers
from conformance.lab.ledger import Ledger
from conformance.machine import Machines, Pace
from conformance.model import Evidence, Facts
from conformance.observers.host import Entry, Inventory, ask_all, residue
from conformance.plugin import masking
from conformance.plugin.recorded import Tape, record
from conformance.plugin.verdicts import left_behind
from conformance.record import DriverCall, GuestBoot, Recorder, TargetSeen
from conformance.waiting import now, use_clock

READING = frozenset(
    {"get", "list", "find", "facts", "capabilities", "hosts", "networks", "addresses", "snapshots", "volumes"}
    | {"console_log", "close"}
)
"""Driver calls after which the hosts need no new look."""

REAL = (Evidence.HARDWARE, Evidence.NESTED)
"""Evidence that no double may give."""

UNMEASURED = Pace(10.0)
"""Until a guest has been booted: patient, since every deadline is made from it."""


UNHEARD, LEAST = Pace(5.0), Pace(1.25)
"""When that guest never answered: patient still, but less with every further guest that stays silent. With a bad image
every test waits for the same silence, and a whole run shall not take hours to say so."""


class Opened:
    """One target of the leased lab, connected, with its pace measured."""

    def __init__(self, worker: Worker, target: Target) -> None:
        self.target = target
        self.worker = worker
        self.pace = UNMEASURED
        self.tape = Tape(worker.write_call, worker.changing, worker.mask, lambda: self.pace.operation)
        self.tape.item = worker.item
        folder = paths.state_dir() / "ledgers" / worker.lab.name
        self.ledger = Ledger(folder / f"{worker.run}-{worker.name}-{target.slug}.jsonl", target.slug)
        self.refusals: dict[str, str | HarnessError | AssertionError] = {}
        self.driver = self.connect()
        self.capabilities = frozenset(self.driver.capabilities())
        self._unheard = False
        seen = self.pace_seconds()
        self._unheard = seen is None
        self.pace = UNHEARD if seen is None else Pace(seen)
        worker.recorder.write(target_seen(worker.lab, target, self.driver, boot_seconds=seen))

    def connect(self) -> Driver:
        """A new connection to the target."""
        return record(labs.connect(self.worker.lab, self.target), self.tape)

    def machines(self) -> Machines:
        """For one test, or for the VM that several steady tests look at."""
        worker = self.worker
        return Machines(
            self.driver,
            worker.lab,
            worker.observers,
            self.ledger,
            self.pace,
            worker.tag,
            on_boot=self._heard,
            on_silence=self._silent,
        )

    def _heard(self, seconds: float) -> None:
        self.worker.write_boot(seconds)
        if self._unheard:
            self._unheard, self.pace = False, UNHEARD

    def _silent(self) -> None:
        if self._unheard:
            self.pace = Pace(max(LEAST.boot_seconds, self.pace.boot_seconds / 2))

    def pace_seconds(self) -> float | None:
        """Seconds from power-on to the agent's answer, by the lab's clock; None when no guest came up.

        A driver that cannot boot a guest is judged by the tests, not here.
        """
        machines, before = self.machines(), self.worker.last_look()
        try:
            machine = machines.create()
            start = now()
            self.driver.start(machine.id).wait()
            machines.wait_up(machine)
            return now() - start
        except (DriverError, NotObserved):
            return None
        finally:
            machines.dispose()
            # no test watches this VM
            with suppress(DriverError):
                self.clear(before, machines.named)

    def clear(self, before: Inventory, named: Sequence[str]) -> Sequence[str]:
        """Compare the hosts with what they were, and reclaim what was made under `named` if anything is left.

        Returns:
            What was left behind, a line each.

        Raises:
            DriverError: Not everything could be reclaimed.

        Names of what is still there afterwards stay in the ledger, for the sweep.
        """
        worker = self.worker
        found = residue(before, worker.last_look())
        lines = left_behind(worker.news(found["appeared"]), worker.news(found["vanished"]))
        if not lines:
            return lines
        for name in named:
            # settled on the driver's word that it was deleted, which is now seen to be worth nothing
            self.ledger.promise(name)
        errors = []
        for name in named:
            try:
                self.driver.reclaim(name)
            except DriverError as error:
                errors.append(error)
        # nor is its word that it reclaimed them
        left = worker.look() - before
        worker.abandon(left)
        if errors:
            raise errors[0]
        if not left:
            for name in named:
                self.ledger.settle(name)
        return lines

    def close(self) -> None:
        self.driver.close()
        self.ledger.close()


class Worker:
    """One process that runs items.

    Args:
        name: Unique within the run.
        run: Id of the run.
        recorder: The process's part of the record.
        pool: The labs, of which one is leased at first use.
        lease_url: Coordinator of the leases.
    """

    def __init__(self, name: str, run: str, recorder: Recorder, pool: Sequence[LabInventory], lease_url: str) -> None:
        self.name = name
        self.run = run
        self.tag = f"hvc-{run}-{name}"
        self.recorder = recorder
        self.mask = masking.of_run(pool, lease_url or leases.default_url())
        self.item = ""
        self._pool = pool
        self._url = lease_url or leases.default_url()
        self._lease: leases.Lease | None = None
        self._observers: Observers | None = None
        self._broken: LabError | None = None
        self._opened: dict[str, Opened | HarnessError] = {}
        self._seen: Inventory | None = None
        self._marks: dict[str, str] | None = None
        self._abandoned: set[tuple[str, str, str]] = set()
        self._lock = threading.RLock()

    # the lab

    @property
    def lab(self) -> LabInventory:
        """The leased lab; raises `LabError`, the same each time, when there is none to be had."""
        self._open()
        assert self._lease is not None
        return self._lease.lab

    @property
    def observers(self) -> Observers:
        self._open()
        assert self._observers is not None
        return self._observers

    def _open(self) -> None:
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._observers is not None:
                return
            try:
                self._lease = leases.acquire(self._pool, lease_keys(self._pool), url=self._url, who=self.tag)
                self._observers = labs.lab_kind(self._lease.lab.kind).observe(self._lease.lab)
            except LabError as error:
                self._broken = error
                raise
            use_clock(self._observers.clock)
            # what a crashed worker of this run left on the lab that is ours now
            sweep.sweep(self._lease.lab, lambda _: None, run=self.run)

    def opened(self, slug: str) -> Opened:
        """A target, connected at first use; raises what connecting raised, the same each time."""
        with self._lock:
            if slug not in self._opened:
                try:
                    self._opened[slug] = Opened(self, self.lab.target(slug))
                except HarnessError as error:
                    self._opened[slug] = error
            found = self._opened[slug]
        if isinstance(found, HarnessError):
            raise found
        return found

    # residue

    def look(self) -> Inventory:
        """Everything on the lab's hosts, asked all at once: this is done after every test."""
        probes = [self.observers.host(host.name) for host in self.lab.hosts]
        found: Inventory = frozenset().union(*ask_all(probes, lambda probe: probe.inventory()))
        self._seen = found
        return found

    def last_look(self) -> Inventory:
        """The latest look, where nothing happened since; else a new one."""
        return self.look() if self._seen is None else self._seen

    def log_marks(self) -> dict[str, str]:
        """Where the hosts' logs were before anything else was changed."""
        if self._marks is None:
            names = [host.name for host in self.lab.hosts]
            probes = [self.observers.host(name) for name in names]
            self._marks = dict(zip(names, ask_all(probes, lambda probe: probe.log_mark()), strict=True))
        return self._marks

    def changing(self, operation: str) -> None:
        """A call of the driver begins or has ended: if it may change a host, what was seen before is worth nothing."""
        if operation not in READING:
            self._seen = self._marks = None

    def abandon(self, left: Inventory) -> None:
        """What a test left for good and failed for; whatever becomes of it later is no other test's doing."""
        self._abandoned.update((entry.host, entry.kind, entry.name) for entry in left)

    def news(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Without what was abandoned."""
        return [entry for entry in entries if (entry.host, entry.kind, entry.name) not in self._abandoned]

    # the record

    def write_call(self, call: DriverCall) -> None:
        if not call.item:
            call = call.model_copy(update={"item": self.item})
        self.changing(call.operation)
        self.recorder.write(call)

    def write_boot(self, seconds: float) -> None:
        self.recorder.write(GuestBoot(item=self.item, seconds=seconds))

    def begin(self, item: str) -> None:
        """What follows belongs to `item`."""
        self.item = item
        for opened in self._opened.values():
            if isinstance(opened, Opened):
                opened.tape.begin(item)

    def close(self) -> None:
        for opened in self._opened.values():
            if isinstance(opened, Opened):
                opened.close()
        if self._observers is not None:
            self._observers.close()
            use_clock(None)
        if self._lease is not None:
            self._lease.release()


def lease_keys(pool: Sequence[LabInventory]) -> list[str]:
    """What the labs of a pool are called among all that lease; cells of one nested lab have their own."""
    keys = [leases.key(lab) for lab in pool]
    return [key if keys.count(key) == 1 else f"{key}-{keys[:at].count(key)}" for at, key in enumerate(keys)]


def target_seen(lab: LabInventory, target: Target, driver: Driver, *, boot_seconds: float | None = None) -> TargetSeen:
    """What a target says of itself, for the record; raises `LabError` for a double that the lab claims to be none."""
    facts = driver.facts()
    if facts.double and lab.evidence in REAL:
        raise LabError(
            f"target {target.slug} is a double ({facts.double}), and lab {lab.name} claims evidence {lab.evidence}",
            hint=f'set evidence = "{Evidence.OWN_DOUBLE}" in the lab file, or give the URLs of real hosts',
        )
    return TargetSeen(
        target=target.slug,
        lab=lab.name,
        driver=target.driver,
        evidence=lab.evidence,
        evidence_note=lab.evidence_note,
        facts=dict(_flat(facts)),
        capabilities=sorted(driver.capabilities()),
        defect=target.defect,
        boot_seconds=boot_seconds,
    )


def _flat(facts: Facts) -> Mapping[str, str]:
    return {
        "hypervisor": facts.hypervisor,
        "version": facts.version,
        "driver": facts.driver,
        "driver_version": facts.driver_version,
        "accelerator": facts.accelerator,
        "hosts": ", ".join(facts.hosts),
        **({"double": facts.double} if facts.double else {}),
        **facts.details,
    }


def record_folder(out: Path) -> Path:
    """Where the record of a run lies."""
    return out / "record"
