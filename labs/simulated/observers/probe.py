"""The host probe of a simulated host: looks at its raw state, and breaks it on request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conformance.errors import FaultNotFired, ProbeFailed
from conformance.observers.host import Entry, HostDomain, Inventory, Kind
from labs.simulated.world.disks import File, Layer, PlainFile
from labs.simulated.world.domain import Config, DiskConfig, Domain, NicConfig
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host
from labs.simulated.world.process import Process
from labs.simulated.world.world import World

_TAIL = 64 * 1024
_RESTART_S = 0.5
_CANARY_BYTES = 4 * 1024 * 1024


class SimulatedProbe:
    """One host. See `conformance.observers.host.HostProbe`."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host

    @property
    def host(self) -> str:
        return self._host.name

    # looking

    def domains(self) -> Sequence[HostDomain]:
        with self._world.clock.lock:
            return [self._shown(domain) for domain in self._host.domains.values()]

    def _shown(self, domain: Domain) -> HostDomain:
        config, process = domain.config, domain.process
        return HostDomain(
            uuid=config.uuid,
            name=config.name,
            host=self._host.name,
            running=process is not None,
            paused=process is not None and process.paused,
            pid=process.pid if process is not None else 0,
            vcpu_seconds=process.vcpu_seconds if process is not None else 0.0,
            vcpus=process.vcpus if process is not None else config.vcpus,
            memory_mib=process.memory_mib if process is not None else config.memory_mib,
            macs=tuple(nic.mac for nic in config.nics),
            disk_paths=tuple(disk.path for disk in config.disks),
        )

    def inventory(self) -> Inventory:
        with self._world.clock.lock:
            return frozenset(self._entries())

    def _entries(self) -> Iterator[Entry]:
        host = self._host
        for uuid, domain in host.domains.items():
            yield Entry(host.name, Kind.DOMAIN, uuid, domain.config.name)
            if domain.process is not None:
                process = domain.process
                yield Entry(host.name, Kind.PROCESS, f"vm {uuid}", f"pid {process.pid}")
                yield Entry(host.name, Kind.PORT, f"console of {uuid}", str(process.console_port))
        for path in host.files.paths():
            yield Entry(host.name, Kind.FILE, path)
        for tap, mac in host.taps.items():
            yield Entry(host.name, Kind.INTERFACE, tap, mac)
        for rule, mac in host.rules.items():
            yield Entry(host.name, Kind.RULE, rule, mac)
        for port, uuid in host.listeners.items():
            yield Entry(host.name, Kind.PORT, f"migration {port}", uuid)

    def _file(self, path: str) -> File:
        file = self._host.files.get(path)
        if file is None:
            raise ProbeFailed(f"no file {path} on {self._host.name}")
        return file

    def disk_size(self, path: str) -> int:
        file = self._file(path)
        if not isinstance(file, Layer):
            raise ProbeFailed(f"{path} on {self._host.name} is not a disk image")
        return file.size_bytes

    def file_hash(self, path: str) -> str:
        with self._world.clock.lock:
            return self._file(path).sha256()

    def exists(self, path: str) -> bool:
        return self._host.files.get(path) is not None

    def console_tail(self, uuid: str) -> bytes:
        file = self._host.files.get(f"/var/log/vms/{uuid.lower()}.console.log")
        return file.data[-_TAIL:] if isinstance(file, PlainFile) else b""

    def log_mark(self) -> str:
        return str(len(self._host.log))

    def log_since(self, mark: str) -> str:
        return "\n".join(self._host.log[int(mark) :])[-_TAIL:]

    # faults

    def _process(self, uuid: str, fault: str) -> Process:
        domain = self._host.domains.get(uuid.lower())
        if domain is None or domain.process is None:
            raise FaultNotFired(f"{fault}: no process of {uuid} on {self._host.name}")
        return domain.process

    def kill_vm(self, uuid: str) -> None:
        with self._world.clock.lock:
            process = self._process(uuid, "kill_vm")
            process.domain.failed = True
            process.end()
            self._host.note(f"process {process.pid} of {uuid} was killed")

    def restart_management(self) -> None:
        """Kill the daemon: its jobs die with it, its VMs go on."""
        with self._world.clock.lock:
            self._host.management_up = False
            for domain in list(self._host.domains.values()):
                if domain.task is not None:
                    domain.task.cancel(HypervisorError("unreachable", f"the management of {self._host.name} restarted"))
            self._world.clock.sleep(_RESTART_S)
            self._host.management_up = True
            self._host.note("management restarted")

    @contextmanager
    def cut_link_to(self, other: str) -> Iterator[None]:
        if other not in self._world.hosts or other == self._host.name:
            raise FaultNotFired(f"cut_link_to: {self._host.name} has no link to {other!r}")
        self._host.cut_from.add(other)
        try:
            yield
        finally:
            self._host.cut_from.discard(other)

    @contextmanager
    def fill_storage(self, storage: str) -> Iterator[None]:
        space = self._host.spaces.get(storage)
        if space is None or space.full:
            raise FaultNotFired(f"fill_storage: {storage!r} on {self._host.name} is unknown or full already")
        space.full = True
        try:
            yield
        finally:
            space.full = False

    @contextmanager
    def take_away(self, path: str) -> Iterator[None]:
        file = self._host.files.get(path)
        if file is None:
            raise FaultNotFired(f"take_away: no file {path} on {self._host.name}")
        self._host.files.remove(path)
        try:
            yield
        finally:
            self._host.files.put(path, file)

    def stop_out_of_band(self, uuid: str) -> None:
        with self._world.clock.lock:
            self._process(uuid, "stop_out_of_band").end()
            self._host.note(f"{uuid} was stopped by hand")

    @contextmanager
    def create_canary(self, name: str) -> Iterator[HostDomain]:
        """A running VM with a disk, a tap and no owner."""
        world, host = self._world, self._host
        storage = world.inventory.storages[0]
        with world.clock.lock:
            uuid = world.new_uuid()
            path = f"{storage.path}/{name}-{uuid}.canary"
            disk = Layer(_CANARY_BYTES, space=host.spaces[storage.name])
            disk.write(0, hashlib.shake_128(uuid.encode()).digest(4096))
            host.files.put(path, disk)
            config = Config(uuid, name, "", 1, 64, 1, "bios", storage.name, [DiskConfig("root", path, 3)])
            mac = f"52:54:00:ca:{world.random.randrange(256):02x}:{world.random.randrange(256):02x}"
            config.nics.append(NicConfig(f"{uuid[:8]}-c", mac, world.inventory.networks[0].name, False, 4))
            domain = Domain(config, PlainFile())
            host.domains[uuid] = domain
            domain.process = Process(domain, host)
            domain.process.power_on()
        try:
            yield self._shown(domain)
        finally:
            with world.clock.lock:
                if domain.process is not None:
                    domain.process.end()
                host.domains.pop(uuid, None)
                host.files.remove(path)
