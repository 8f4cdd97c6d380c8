"""Migration: copying, the switch-over, the announcement on the network, and the way back after any failure."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from labs.simulated.world import frames
from labs.simulated.world.clock import Steps
from labs.simulated.world.disks import File, Layer
from labs.simulated.world.domain import Config, Domain
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host
from labs.simulated.world.hypervisor import Progressed, console_path, nvram_path
from labs.simulated.world.process import Process
from labs.simulated.world.storage import StorageCalls

STEP_S = 0.05
PRECOPY_S = 1.0
_PORT = 49152
_DIRTY_PENALTY = 2


@dataclass
class Move:
    """One migration under way. `target_storage` is empty when the disks stay where they are."""

    source: Host
    target: Host
    domain: Domain
    target_storage: str
    seconds: float
    incoming: Domain
    copied: dict[str, str] = field(default_factory=dict)
    port: int = 0


class MigrationCalls(StorageCalls):
    """Live and cold migration, in small steps each of which a defect can break."""

    keepalive_s = 5.0
    downtime_s = 0.04

    def check_migration(self, source: Host, domain: Domain, target: str, target_storage: str) -> Host:
        """Everything that can be known before anything moves."""
        to = self.host(target)
        if to is source:
            raise HypervisorError("bad-request", f"{domain.config.name} is on {target} already")
        if target_storage:
            self.storage_path(target_storage)
        elif not self.is_shared(domain.config.storage):
            raise HypervisorError("bad-request", f"{domain.config.storage} is not shared: its disks have to be copied")
        for disk in domain.config.disks:
            if disk.volume and self.volume(disk.volume).host:
                raise HypervisorError("bad-request", f"the volume {disk.serial} is only on {source.name}")
        if domain.process is not None:
            to.claim_memory(domain.config.memory_mib)
        return to

    def migrate(
        self,
        source: Host,
        domain: Domain,
        target: Host,
        *,
        target_storage: str = "",
        bandwidth_mib_s: int = 0,
        progressed: Progressed = lambda _fraction, _phase: None,
    ) -> Steps[None]:
        """Move a VM, running, paused or stopped. On any failure it goes on at the source."""
        seconds = PRECOPY_S
        if bandwidth_mib_s:
            seconds = max(seconds, domain.config.memory_mib / bandwidth_mib_s)
        config = copy.deepcopy(domain.config)
        move = Move(source, target, domain, target_storage, seconds, Domain(config, domain.console))
        was_paused = domain.process.paused if domain.process else False
        switched = False
        try:
            progressed(0.0, "preparing")
            self._prepare(move)
            if domain.process is None:
                yield from self._copy_cold(move, progressed)
                self.copy_disks(move)
            else:
                yield from self._precopy(move, domain.process, progressed)
                yield from self._switch(move, domain.process, was_paused, progressed)
            switched = True
        finally:
            if not switched:
                self.roll_back(move, was_paused=was_paused)
            self.close_listener(move)
        self.adopt_domain(move)
        self.remove_source(move)
        progressed(1.0, "done")

    def _prepare(self, move: Move) -> None:
        """Everything the target needs: a listener, empty disks, taps with their rules, a process that waits."""
        uuid = move.domain.config.uuid
        move.port = _PORT + len(move.target.listeners)
        move.target.listeners[move.port] = uuid
        if move.target_storage:
            self.plan_copies(move)
        if move.domain.process is None:
            return
        move.incoming.incoming = True
        move.target.domains[uuid] = move.incoming
        move.incoming.process = Process(move.incoming, move.target)
        move.incoming.process.vcpus = move.domain.process.vcpus
        move.incoming.process.memory_mib = move.domain.process.memory_mib
        move.target.note(f"waiting for {move.domain.config.name} on port {move.port}")

    def plan_copies(self, move: Move) -> None:
        """Decide where each layer goes and put an empty file there."""
        space = move.target.spaces[move.target_storage]
        folder = self.storage_path(move.target_storage)
        for path in self.owned_layers(move.source, move.domain):
            name = path.rpartition("/")[2]
            wanted = f"{folder}/{name}"
            if move.target.files.get(wanted) is not None:  # the same shared storage
                wanted = f"{folder}/moved-{len(move.target.files.paths())}-{name}"
            space.claim()
            move.target.files.put(wanted, Layer(move.source.files.layer(path).size_bytes, space=space))
            move.copied[path] = wanted
        self.rewrite(move.incoming.config, move)

    @staticmethod
    def rewrite(config: Config, move: Move) -> None:
        config.storage = move.target_storage or config.storage
        for disk in config.disks:
            disk.path = move.copied.get(disk.path, disk.path)

    def _precopy(self, move: Move, process: Process, progressed: Progressed) -> Steps[None]:
        """Copy RAM while the guest runs."""
        done, stalled = 0.0, 0.0
        while done < move.seconds:
            yield STEP_S
            self._check_alive(move, process)
            if self._cut(move):
                stalled += STEP_S
                if stalled >= self.keepalive_s:
                    raise HypervisorError(
                        "link-lost", f"no answer from {move.target.name} for {self.keepalive_s:.0f} s"
                    )
                continue
            stalled = 0.0
            dirty = process.guest is not None and process.guest.memory.dirty_mib > 0
            done += STEP_S / (_DIRTY_PENALTY if dirty else 1)
            progressed(min(0.99, done / move.seconds), "copying memory")

    def _switch(self, move: Move, process: Process, was_paused: bool, progressed: Progressed) -> Steps[None]:
        """Stop at the source, send the rest, go on at the target."""
        progressed(0.99, "switching over")
        process.pause()
        yield self.downtime_s
        self._check_alive(move, process)
        if self._cut(move):
            raise HypervisorError("link-lost", f"no answer from {move.target.name}")
        self.copy_disks(move)
        assert move.incoming.process is not None
        self.open_disks(move)
        guest = process.release_guest()
        move.incoming.process.adopt(guest, paused=was_paused)
        self.announce(move)

    def _check_alive(self, move: Move, process: Process) -> None:
        waits = move.incoming.process
        if not process.alive:
            raise HypervisorError("peer-died", f"{move.domain.config.name} ended on {move.source.name}")
        if waits is None or not waits.alive:
            raise HypervisorError("peer-died", f"the process on {move.target.name} ended")
        for host in (move.source, move.target):
            if not host.management_up:
                raise HypervisorError("unreachable", f"the management of {host.name} does not answer")

    def _cut(self, move: Move) -> bool:
        return move.target.name in move.source.cut_from or move.source.name in move.target.cut_from

    def _copy_cold(self, move: Move, progressed: Progressed) -> Steps[None]:
        done = 0.0
        while done < PRECOPY_S / 2:
            yield STEP_S
            if self._cut(move):
                raise HypervisorError("link-lost", f"no answer from {move.target.name}")
            done += STEP_S
            progressed(min(0.99, done * 2 / PRECOPY_S), "copying disks")

    def copy_disks(self, move: Move) -> None:
        """Fill the layers at the target, backings and all."""
        new: dict[int, Layer] = {}
        for path, wanted in move.copied.items():
            old, made = move.source.files.layer(path), move.target.files.layer(wanted)
            made.size_bytes, made.format = old.size_bytes, old.format
            made.blocks = dict(old.blocks)
            made.identifier = old.identifier
            new[id(old)] = made
        for path in move.copied:
            old = move.source.files.layer(path)
            if old.backing is not None:
                new[id(old)].backing = new.get(id(old.backing), old.backing)

    def open_disks(self, move: Move) -> None:
        """The target opens the disks as they are now."""
        process = move.incoming.process
        assert process is not None
        live = move.domain.config
        for mine in move.incoming.config.disks:
            theirs = live.disk(mine.serial)
            if theirs is not None and theirs.path not in move.copied:
                mine.path = theirs.path
            process.layers[mine.serial] = move.target.files.layer(mine.path)

    def announce(self, move: Move) -> None:
        """Tell the network where the guest is now: one RARP a NIC, as QEMU sends it."""
        process = move.incoming.process
        assert process is not None
        for mac, vif in process.vifs.items():
            payload = frames.arp(3, mac, "0.0.0.0", mac, "0.0.0.0")
            vif.network.transmit(vif.port, frames.ethernet(frames.BROADCAST, mac, frames.RARP, payload))

    def roll_back(self, move: Move, *, was_paused: bool) -> None:
        """Leave the target as it was, and let the source go on."""
        uuid = move.domain.config.uuid
        if move.incoming.process is not None:
            move.incoming.process.end()
        if move.target.domains.get(uuid) is move.incoming:
            del move.target.domains[uuid]
        for wanted in move.copied.values():
            move.target.files.remove(wanted)
        process = move.domain.process
        if process is not None and process.paused and not was_paused:
            process.resume()
        move.source.note(f"migration of {move.domain.config.name} to {move.target.name} failed")

    def close_listener(self, move: Move) -> None:
        """Stop listening for the migration."""
        move.target.listeners.pop(move.port, None)

    def adopt_domain(self, move: Move) -> None:
        """The target's definition becomes the VM's, with its snapshots and everything else about it."""
        new, old = move.incoming, move.domain
        new.incoming = False
        new.snapshots, new.current = old.snapshots, old.current
        new.trial, new.failed = old.trial, old.failed
        for snapshot in new.snapshots.values():
            snapshot.layers = {serial: move.copied.get(path, path) for serial, path in snapshot.layers.items()}
            self.rewrite(snapshot.config, move)
            snapshot.memory_path = self._move_file(move, snapshot.memory_path)
        new.state_path = self._move_file(move, old.state_path)
        self._move_file(move, console_path(new.config.uuid))
        self._move_file(move, nvram_path(new.config.uuid))
        move.target.domains[new.config.uuid] = new

    def _move_file(self, move: Move, path: str) -> str:
        file: File | None = move.source.files.get(path) if path else None
        if file is not None:
            move.source.files.remove(path)
            move.target.files.put(path, file)
        return path

    def remove_source(self, move: Move) -> None:
        """End the source's process, and remove its definition and the disks that were copied."""
        if move.domain.process is not None:
            move.domain.process.end()
        move.source.domains.pop(move.domain.config.uuid, None)
        for path in move.copied:
            move.source.files.remove(path)
        move.source.note(f"{move.domain.config.name} has moved to {move.target.name}")


class Hypervisor(MigrationCalls):
    """All calls of the hypervisor."""
