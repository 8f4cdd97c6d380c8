"""A complete, small driver: the mandatory core and one facet, Pause. The page write-a-driver.md walks through it.

What it drives is the simulated world, so that it runs anywhere. In a driver of your own, `Hypervisor` is your
hypervisor's client library; everything else can stay much as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from conformance.driver import DEFAULT_DEADLINE_S, Completed, Driver, Operation
from conformance.errors import (
    Busy,
    DriverError,
    Exists,
    HostUnreachable,
    HypervisorFailure,
    InvalidRequest,
    InvalidState,
    LabFileError,
    NotFound,
    QuotaExceeded,
    Timeout,
    Unsupported,
)
from conformance.lab.inventory import LabInventory, Target
from conformance.model import (
    Capability,
    Declared,
    DiskState,
    Facts,
    Firmware,
    NicState,
    PowerState,
    Progress,
    RebootMode,
    StopMode,
    VmSpec,
    VmState,
)
from labs.simulated.world import World, get
from labs.simulated.world.clock import Steps, Task, VirtualClock
from labs.simulated.world.disks import Layer
from labs.simulated.world.domain import Config, Domain
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host
from labs.simulated.world.migration import Hypervisor

T = TypeVar("T")

OWNER = "minimal"
"""Marks the VMs that this driver made; it never touches another."""

GRACE_S = 20.0
"""How long a guest may take to follow a request, in seconds."""

ERRORS: Mapping[str, type[DriverError]] = {
    "no-domain": NotFound,
    "no-memory": QuotaExceeded,
    "bad-image": InvalidRequest,
    "bad-request": InvalidRequest,
    "exists": Exists,
    "busy": Busy,
    "unreachable": HostUnreachable,
}
"""The hypervisor's error codes that mean more than "it failed"."""


@contextmanager
def translated(operation: str, vm: str) -> Iterator[None]:
    """Turn the hypervisor's errors into the contract's, with its own words and code; an unknown one stays an error."""
    try:
        yield
    except HypervisorError as error:
        if error.code == "guest-refused":
            phase, last = "waiting for the guest", PowerState.RUNNING
            raise Timeout(error.message, phase=phase, last_state=last, operation=operation, vm=vm) from error
        kind = ERRORS.get(error.code, HypervisorFailure)
        raise kind(error.message, operation=operation, vm=vm, code=error.code) from error


class Job(Generic[T]):
    """An operation that the hypervisor carries out as a job of its own."""

    def __init__(self, task: Task[T], clock: VirtualClock, operation: str, vm: str) -> None:
        self._task = task
        self._clock = clock
        self._operation = operation
        self._vm = vm

    def wait(self, deadline_s: float | None = None) -> T:
        limit = DEFAULT_DEADLINE_S if deadline_s is None else deadline_s
        if not self._clock.wait_for(lambda: self._task.done, limit):
            raise Timeout(phase="running", last_state="job active", operation=self._operation, vm=self._vm)
        with translated(self._operation, self._vm):
            if self._task.error is not None:
                raise self._task.error
        return self._task.result  # type: ignore[return-value]  # a job without an error has its result

    def progress(self) -> Progress:
        return Progress(1.0, "done") if self._task.done else Progress(0.0, "running")

    def done(self) -> bool:
        return self._task.done

    def abort(self) -> None:
        raise Unsupported(capability="abort", operation=self._operation, vm=self._vm)


class MinimalDriver(Driver):
    """Drives one simulated world."""

    name = "minimal"

    def __init__(self, world: World, hosts: Sequence[str]) -> None:
        self._world = world
        self._hypervisor = Hypervisor(world)
        self._hosts = tuple(hosts)

    @classmethod
    def connect(cls, lab: LabInventory, target: Target) -> MinimalDriver:
        return cls(get(lab), target.hosts)

    def close(self) -> None:
        """There is no connection to let go of."""

    def facts(self) -> Facts:
        return Facts(hypervisor="simulated world", version="1", driver=self.name, driver_version="1", hosts=self._hosts)

    def capabilities(self) -> Mapping[Capability, Declared]:
        return {Capability.PAUSE: Declared(Capability.PAUSE)}

    def hosts(self) -> Sequence[str]:
        return self._hosts

    def networks(self) -> Sequence[str]:
        return tuple(self._world.networks)

    def list(self) -> Sequence[str]:
        return [domain.config.uuid for _, domain in self._own()]

    def find(self, name: str) -> str:
        for _, domain in self._own():
            if domain.config.name == name:
                return domain.config.uuid
        raise NotFound(f"no VM is called {name!r}", operation="find", vm=name)

    def get(self, vm: str) -> VmState:
        host, domain = self._look_up(vm, "get")
        config = domain.config
        layers = {disk.serial: host.files.layer(disk.path) for disk in config.disks}
        return VmState(
            id=config.uuid,
            name=config.name,
            uuid=config.uuid,
            power=power(domain),
            host=host.name,
            vcpus=config.vcpus,
            memory_mib=config.memory_mib,
            disks=tuple(DiskState(serial, layer.size_bytes) for serial, layer in layers.items()),
            nics=tuple(NicState(nic.id, nic.mac, nic.network, nic.link) for nic in config.nics),
        )

    def addresses(self, vm: str) -> Sequence[str]:
        _, domain = self._look_up(vm, "addresses")
        leases = [self._world.networks[nic.network].leases.get(nic.mac) for nic in domain.config.nics]
        return [lease for lease in leases if lease] if domain.process else []

    def create(self, spec: VmSpec) -> Operation[str]:
        if spec.firmware is Firmware.UEFI:
            raise Unsupported(capability=Capability.FIRMWARE_UEFI, operation="create", vm=spec.name)
        if any(nic.anti_spoof for nic in spec.nics):
            raise Unsupported(capability=Capability.ANTI_SPOOF, operation="create", vm=spec.name)
        try:
            image = self._world.inventory.image(spec.image)
        except LabFileError as error:
            raise InvalidRequest(error.message, operation="create", vm=spec.name) from error
        with self._world.clock.lock, translated("create", spec.name):
            host = self._hypervisor.host(spec.host or self._hosts[0])
            base = host.files.layer(str(image.path))
            if not base.valid:
                raise HypervisorError("bad-image", f"{image.path} is not a disk image")
            if 0 < spec.root_disk_bytes < base.size_bytes:
                raise HypervisorError("bad-request", "the root disk is smaller than its image")
            return Completed(self._define(host, base, spec))

    def _define(self, host: Host, base: Layer, spec: VmSpec) -> str:
        """Everything that can be refused comes first; `define` itself undoes what it made when it fails."""
        storage = spec.storage or self._world.inventory.storages[0].name
        self._hypervisor.storage_path(storage)
        space = host.spaces[storage]
        uuid = self._world.new_uuid()
        config = Config(uuid, spec.name, OWNER, spec.vcpus, spec.memory_mib, spec.vcpus, "bios", storage)
        for nic in spec.nics:
            self._hypervisor.new_nic(config, nic.mac, nic.network, False)
        disks = [("root", Layer(spec.root_disk_bytes or base.size_bytes, "qcow2", base, space))]
        disks += [(disk.serial, Layer(disk.size_bytes, "qcow2", None, space)) for disk in spec.disks]
        self._hypervisor.define(host, config, disks)
        return uuid

    def delete(self, vm: str) -> Operation[None]:
        host, domain = self._look_up(vm, "delete")
        with self._world.clock.lock:
            self._hypervisor.end_job(domain)
            self._hypervisor.undefine(host, domain)
        return Completed(None)

    def reclaim(self, name: str) -> None:
        for _, domain in list(self._own()):
            if domain.config.name == name:
                self.delete(domain.config.uuid).wait()

    def start(self, vm: str) -> Operation[None]:
        host, domain = self._look_up(vm, "start")
        if power(domain) is PowerState.RUNNING:
            return Completed(None)
        self._require(domain, "start", PowerState.STOPPED, PowerState.CRASHED)
        return self._job(domain, "start", self._hypervisor.start(host, domain))

    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:
        _, domain = self._look_up(vm, "stop")
        if power(domain) is PowerState.STOPPED:
            return Completed(None)
        if mode is StopMode.GRACEFUL:
            self._require(domain, "stop", PowerState.RUNNING)
            return self._job(domain, "stop", self._hypervisor.ask_guest(domain, reboot=False, grace_s=GRACE_S))
        with self._world.clock.lock:
            self._hypervisor.end_job(domain)
            self._hypervisor.destroy(domain)
        return Completed(None)

    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:
        _, domain = self._look_up(vm, "reboot")
        self._require(domain, "reboot", PowerState.RUNNING)
        if mode is RebootMode.SOFT:
            return self._job(domain, "reboot", self._hypervisor.ask_guest(domain, reboot=True, grace_s=GRACE_S))
        with self._world.clock.lock, translated("reboot", vm):
            self._hypervisor.end_job(domain)
            self._hypervisor.reset(domain)
        return Completed(None)

    # the facet Pause

    def pause(self, vm: str) -> Operation[None]:
        return self._switch(vm, "pause", self._hypervisor.pause, PowerState.RUNNING, PowerState.PAUSED)

    def resume(self, vm: str) -> Operation[None]:
        return self._switch(vm, "resume", self._hypervisor.resume, PowerState.PAUSED)

    def _switch(self, vm: str, operation: str, call: Callable[[Domain], None], *allowed: PowerState) -> Operation[None]:
        _, domain = self._look_up(vm, operation)
        self._require(domain, operation, *allowed)
        with self._world.clock.lock, translated(operation, vm):
            call(domain)
        return Completed(None)

    # helpers

    def _own(self) -> Iterator[tuple[Host, Domain]]:
        """The VMs of this driver, and no others, on every host that answers."""
        for host, domain in list(self._hypervisor.domains()):
            if domain.config.owner == OWNER:
                yield host, domain

    def _look_up(self, vm: str, operation: str) -> tuple[Host, Domain]:
        with translated(operation, vm):
            host, domain = self._hypervisor.domain(vm)
            if domain.config.owner != OWNER:
                raise HypervisorError("no-domain", f"{vm} is not a VM of this driver")
            return host, domain

    def _job(self, domain: Domain, operation: str, steps: Steps[T]) -> Operation[T]:
        """Let the hypervisor carry out a job; it refuses a second one while there is one."""
        vm = domain.config.uuid
        with self._world.clock.lock, translated(operation, vm):
            return Job(self._hypervisor.job(domain, operation, steps), self._world.clock, operation, vm)

    def _require(self, domain: Domain, operation: str, *allowed: PowerState) -> None:
        """Refuse with `InvalidState` unless the VM is in one of these states."""
        if (current := power(domain)) not in allowed:
            raise InvalidState(current=current, allowed=allowed, operation=operation, vm=domain.config.uuid)


def power(domain: Domain) -> PowerState:
    """The power state as the hypervisor shows it."""
    process = domain.process
    if process is None:
        return PowerState.STOPPED
    if process.guest is None:
        return PowerState.TRANSIENT  # the process is there and has not been powered on yet
    if process.guest.panicked:
        return PowerState.CRASHED
    return PowerState.PAUSED if process.paused else PowerState.RUNNING
