"""The mandatory core over the simulated hypervisor: create, delete, look, power."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from conformance.driver import Completed, Driver, Operation
from conformance.errors import (
    Busy,
    DriverError,
    Exists,
    InvalidRequest,
    InvalidState,
    NotFound,
    QuotaExceeded,
    Unsupported,
)
from conformance.lab.inventory import Image, LabInventory, Target
from conformance.model import (
    Capability,
    DiskState,
    Firmware,
    NicState,
    PowerState,
    RebootMode,
    StopMode,
    VmSpec,
    VmState,
)
from drivers.simulated.operations import Reported, WorldOperation, translated
from labs.simulated import world as worlds
from labs.simulated.world.clock import Steps, Task
from labs.simulated.world.disks import Layer
from labs.simulated.world.domain import Config, Domain
from labs.simulated.world.host import Host
from labs.simulated.world.hypervisor import ASKING
from labs.simulated.world.migration import Hypervisor

T = TypeVar("T")

GRACE_S = 20.0
_CREATE_S = 0.05
_SLOW_S = 0.7
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
_POWERED = (PowerState.RUNNING, PowerState.PAUSED, PowerState.CRASHED)


class Core(Driver):
    """The core. It keeps nothing in memory: what it knows of a VM is in the hypervisor, under the VM's owner tag.

    Args:
        lab: The lab.
        target: Which target this is; its slug is the owner tag.

    The option ``equivalent`` makes it differ in everything that the contract leaves open: it is slower, lists in
    another order, refuses where the other is content to do nothing, and is content where the other refuses.
    """

    name = "simulated"
    option_names = frozenset({"equivalent"})

    def __init__(self, lab: LabInventory, target: Target) -> None:
        self.lab = lab
        self.target = target
        self.world = worlds.get(lab)
        self.hypervisor = Hypervisor(self.world)
        self.equivalent = bool(target.options.get("equivalent", False))

    def close(self) -> None:
        """Nothing was opened."""

    def hosts(self) -> Sequence[str]:
        return tuple(self.target.hosts)

    def networks(self) -> Sequence[str]:
        return tuple(network.name for network in self.lab.networks)

    # helpers of all facets

    def found(self, vm: str, operation: str) -> tuple[Host, Domain]:
        """A VM of ours; raises `NotFound` for any other."""
        with translated(operation, vm):
            host, domain = self.hypervisor.domain(vm)
        if domain.config.owner != self.target.slug:
            raise NotFound(f"no VM {vm}", operation=operation, vm=vm)
        return host, domain

    def require(self, domain: Domain, operation: str, *allowed: PowerState) -> PowerState:
        """The VM's state; raises `InvalidState` unless it is an allowed one."""
        state = self.power(domain)
        if state not in allowed:
            raise InvalidState(current=state, allowed=allowed, operation=operation, vm=domain.config.uuid)
        return state

    def idle(self, domain: Domain, operation: str) -> None:
        """Raises `Busy` while the VM has a job."""
        if domain.job:
            raise Busy(f"busy with: {domain.job}", operation=operation, vm=domain.config.uuid)

    def refuse(self, capability: Capability, operation: str, vm: str) -> DriverError:
        return Unsupported(capability=capability, operation=operation, vm=vm)

    def run(self, domain: Domain, operation: str, steps: Steps[T], **more: Any) -> Operation[T]:
        """Carry out steps as the VM's job."""
        vm = domain.config.uuid
        with translated(operation, vm):
            task = self.hypervisor.job(domain, operation, self._paced(steps))
        return WorldOperation(self.world.clock, task, operation=operation, vm=vm, **more)

    def run_free(self, operation: str, steps: Steps[T]) -> Operation[T]:
        """Carry out steps that belong to no VM yet."""
        task = Task(self.world.clock, self._paced(steps))
        return WorldOperation(self.world.clock, task, operation=operation, vm=None, reported=Reported())

    def _paced(self, steps: Steps[T]) -> Steps[T]:
        if self.equivalent:
            yield _SLOW_S
        return (yield from steps)

    # create and delete

    def create(self, spec: VmSpec) -> Operation[str]:
        with self.world.clock.lock:
            host, image, config = self._checked(spec)
            return self.run_free("create", self._creation(host, image, config, spec))

    def _checked(self, spec: VmSpec) -> tuple[Host, Image, Config]:
        wrong = self._what_is_wrong(spec)
        if wrong:
            raise InvalidRequest(wrong, operation="create", vm=spec.name)
        image = self.lab.image(spec.image)
        with translated("create", spec.name):
            host = self.hypervisor.host(spec.host or self.target.hosts[0])
            layer = host.files.layer(str(image.path))
            self.hypervisor.storage_path(spec.storage or self.lab.storages[0].name)
        if not layer.valid:
            raise InvalidRequest(f"the image {spec.image} is damaged", operation="create", vm=spec.name)
        if spec.root_disk_bytes and spec.root_disk_bytes < layer.size_bytes:
            needs = f"the image {spec.image} needs {layer.size_bytes} bytes, the root disk has {spec.root_disk_bytes}"
            raise InvalidRequest(needs, operation="create", vm=spec.name)
        if spec.memory_mib > host.memory_mib:
            raise QuotaExceeded(
                f"{host.name} has {host.memory_mib} MiB, {spec.memory_mib} MiB are needed",
                operation="create",
                vm=spec.name,
                host=host.name,
            )
        if any(domain.config.name == spec.name for _, domain in self.hypervisor.domains()):
            raise Exists(f"the name {spec.name!r} is taken", operation="create", vm=spec.name)
        config = Config(
            uuid=self.world.new_uuid(),
            name=spec.name,
            owner=self.target.slug,
            vcpus=spec.vcpus,
            memory_mib=spec.memory_mib,
            max_vcpus=max(spec.max_vcpus, spec.vcpus),
            firmware=str(spec.firmware or image.firmware or Firmware.BIOS),
            storage=spec.storage or self.lab.storages[0].name,
        )
        return host, image, config

    def _what_is_wrong(self, spec: VmSpec) -> str:
        serials = ["root", *(disk.serial for disk in spec.disks)]
        known = {image.name for image in self.lab.images}
        if not spec.name or len(spec.name) > 200 or "\0" in spec.name:
            return "the name is empty, longer than 200 characters, or holds a NUL"
        if spec.image not in known:
            return f"no image {spec.image!r}"
        if spec.vcpus < 1 or spec.memory_mib < 32 or any(disk.size_bytes <= 0 for disk in spec.disks):
            return "vcpus, memory_mib and disk sizes must be positive (and memory at least 32 MiB)"
        if spec.host and spec.host not in self.target.hosts:
            return f"no host {spec.host!r}"
        if len(set(serials)) != len(serials):
            return "two disks have one serial"
        macs = [nic.mac for nic in spec.nics]
        if len(set(macs)) != len(macs) or not all(_MAC.match(mac) for mac in macs):
            return "a MAC is malformed or used twice"
        unknown = [nic.network for nic in spec.nics if nic.network not in self.world.networks]
        return f"no network {unknown[0]!r}" if unknown else ""

    def _creation(self, host: Host, image: Image, config: Config, spec: VmSpec) -> Steps[str]:
        space = host.spaces[config.storage]
        for nic in spec.nics:
            self.hypervisor.new_nic(config, nic.mac, nic.network, nic.anti_spoof)
        yield _CREATE_S
        root = host.files.layer(str(image.path)).flat(space, spec.root_disk_bytes)
        disks = [("root", root), *((disk.serial, Layer(disk.size_bytes, space=space)) for disk in spec.disks)]
        return self.hypervisor.define(host, config, disks).config.uuid

    def delete(self, vm: str) -> Operation[None]:
        with self.world.clock.lock:
            try:
                host, domain = self.found(vm, "delete")
            except NotFound:
                if self.equivalent:
                    return Completed(None)
                raise
            self.hypervisor.end_job(domain)
            host, domain = self.found(vm, "delete")
            return self.run(domain, "delete", self._deletion(host, domain))

    def _deletion(self, host: Host, domain: Domain) -> Steps[None]:
        yield 0.02
        self.hypervisor.undefine(host, domain)

    def reclaim(self, name: str) -> None:
        with self.world.clock.lock, translated("reclaim", name):
            for host, domain in list(self.hypervisor.domains()):
                if domain.config.name == name and domain.config.owner == self.target.slug:
                    self.hypervisor.end_job(domain)
                    self.hypervisor.undefine(host, domain)
            for volume in list(self.world.volumes.values()):
                if volume.name == name and volume.owner == self.target.slug:
                    if volume.attached_to:
                        _, domain = self.hypervisor.domain(volume.attached_to)
                        self.hypervisor.end_job(domain)
                        for disk in [disk for disk in domain.config.disks if disk.volume == volume.id]:
                            self.hypervisor.drop_disk(domain, disk)
                    self.hypervisor.delete_volume(volume.id)

    # looking

    def power(self, domain: Domain) -> PowerState:
        """The state the hypervisor shows."""
        process = domain.process
        if process is None:
            if domain.state_path:
                return PowerState.SUSPENDED
            return PowerState.CRASHED if domain.failed and self.equivalent else PowerState.STOPPED
        if process.guest is None or domain.job == "suspend":
            return PowerState.TRANSIENT
        if process.guest.panicked:
            return PowerState.CRASHED
        paused_by_us = process.paused and domain.job != "migrate"
        return PowerState.PAUSED if paused_by_us else PowerState.RUNNING

    def get(self, vm: str) -> VmState:
        with self.world.clock.lock:
            host, domain = self.found(vm, "get")
            config = domain.config
            disks = tuple(
                DiskState(disk.serial, host.files.layer(disk.path).size_bytes, disk.volume)
                for disk in config.disks
                if host.files.get(disk.path) is not None
            )
            return VmState(
                id=config.uuid,
                name=config.name,
                uuid=config.uuid,
                power=self.power(domain),
                host=host.name,
                vcpus=config.vcpus,
                memory_mib=config.memory_mib,
                disks=disks,
                nics=tuple(NicState(nic.id, nic.mac, nic.network, nic.link) for nic in config.nics),
                snapshots=tuple(domain.snapshots),
            )

    def find(self, name: str) -> str:
        with self.world.clock.lock:
            for _, domain in self.hypervisor.domains():
                if domain.config.name == name and domain.config.owner == self.target.slug:
                    return domain.config.uuid
        raise NotFound(f"no VM named {name!r}", operation="find", vm=name)

    def list(self) -> Sequence[str]:
        with self.world.clock.lock:
            own = [domain.config for _, domain in self.hypervisor.domains() if domain.config.owner == self.target.slug]
        ids = sorted((config.uuid for config in own), reverse=self.equivalent)
        return tuple(ids)

    def addresses(self, vm: str) -> Sequence[str]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "addresses")
            if domain.process is None:
                return ()
            leases = (self.world.networks[nic.network].leases.get(nic.mac) for nic in domain.config.nics)
            return tuple(address for address in leases if address)

    # power

    def start(self, vm: str) -> Operation[None]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "start")
            allowed = (PowerState.STOPPED, PowerState.SUSPENDED, PowerState.CRASHED)
            if self.power(domain) is PowerState.RUNNING and not self.equivalent:
                return Completed(None)
            self.require(domain, "start", *allowed)
            self.idle(domain, "start")
            with translated("start", vm):
                host.claim_memory(domain.config.memory_mib)
            return self.run(domain, "start", self.hypervisor.start(host, domain))

    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "stop")
            if self.power(domain) is PowerState.STOPPED and not self.equivalent:
                return Completed(None)
            if mode is StopMode.FORCE:
                self.require(domain, "stop", *_POWERED)
                self.hypervisor.end_job(domain, ASKING)
                self.idle(domain, "stop")
                self.hypervisor.destroy(domain)
                return Completed(None)
            self.require(domain, "stop", PowerState.RUNNING)
            steps = self.hypervisor.ask_guest(domain, reboot=False, grace_s=GRACE_S)
            return self.run(domain, "stop", steps, abandon=True)

    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "reboot")
            if mode is RebootMode.HARD:
                self.require(domain, "reboot", *_POWERED)
                self.hypervisor.end_job(domain, ASKING)
                self.idle(domain, "reboot")
                self.hypervisor.reset(domain)
                return Completed(None)
            self.require(domain, "reboot", PowerState.RUNNING)
            steps = self.hypervisor.ask_guest(domain, reboot=True, grace_s=GRACE_S)
            return self.run(domain, "reboot", steps, abandon=True)
