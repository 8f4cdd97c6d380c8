"""The optional facets over the simulated hypervisor."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.driver import LIVE, Completed, Operation
from conformance.errors import Exists, InvalidRequest, InvalidState, NotFound, QuotaExceeded
from conformance.model import (
    Capability,
    DiskSpec,
    MigrateOptions,
    NicSpec,
    PowerState,
    SnapshotState,
    VolumeState,
)
from drivers.simulated.core import _MAC, Core
from drivers.simulated.operations import Reported, translated
from labs.simulated.world.clock import Steps
from labs.simulated.world.domain import Domain, Volume
from labs.simulated.world.host import Host

RUNNING, STOPPED, PAUSED = PowerState.RUNNING, PowerState.STOPPED, PowerState.PAUSED
_VCPU_LIMIT = 16


class PowerFacets(Core):
    """Pause, suspend and the console."""

    def pause(self, vm: str) -> Operation[None]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "pause")
            self.idle(domain, "pause")
            if self.power(domain) is PAUSED and not self.equivalent:
                return Completed(None)
            self.require(domain, "pause", RUNNING)
            self.hypervisor.pause(domain)
            return Completed(None)

    def resume(self, vm: str) -> Operation[None]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "resume")
            self.idle(domain, "resume")
            self.require(domain, "resume", PAUSED)
            self.hypervisor.resume(domain)
            return Completed(None)

    def suspend(self, vm: str) -> Operation[None]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "suspend")
            self.require(domain, "suspend", RUNNING)
            return self.run(domain, "suspend", self.hypervisor.suspend(host, domain))

    def console_log(self, vm: str) -> bytes:
        _, domain = self.found(vm, "console_log")
        return domain.console.data


class SnapshotFacets(Core):
    """Snapshots and clones."""

    def snapshot(
        self, vm: str, name: str, *, memory: bool = False, quiesce: bool = False, exclude: Sequence[str] = ()
    ) -> Operation[str]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "snapshot")
            if exclude:
                raise self.refuse(Capability.SNAPSHOT_EXCLUDE_DISK, "snapshot", vm)
            allowed = (RUNNING, PAUSED) if memory else (RUNNING, PAUSED, STOPPED)
            self.require(domain, "snapshot", *((RUNNING,) if quiesce else allowed))
            if any(known.name == name for known in domain.snapshots.values()):
                raise Exists(f"there is a snapshot {name!r} already", operation="snapshot", vm=vm)
            steps = self.hypervisor.snapshot(host, domain, name, memory=memory, quiesce=quiesce)
            return self.run(domain, "snapshot", steps)

    def snapshots(self, vm: str) -> Sequence[SnapshotState]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "snapshots")
            found = [
                SnapshotState(snapshot.id, snapshot.name, snapshot.parent, bool(snapshot.memory_path))
                for snapshot in domain.snapshots.values()
            ]
            return found[::-1] if self.equivalent else found

    def revert(self, vm: str, snapshot: str) -> Operation[None]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "revert")
            with translated("revert", vm):
                wanted = self.hypervisor.find_snapshot(domain, snapshot)
                allowed = [STOPPED, PowerState.SUSPENDED, PowerState.CRASHED]
                if not self.equivalent or wanted.memory_path:
                    allowed += [RUNNING, PAUSED]
                self.require(domain, "revert", *allowed)
                if domain.process is None and wanted.memory_path:
                    host.claim_memory(wanted.config.memory_mib)
            return self.run(domain, "revert", self.hypervisor.revert(host, domain, snapshot))

    def delete_snapshot(self, vm: str, snapshot: str) -> Operation[None]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "delete_snapshot")
            with translated("delete_snapshot", vm):
                self.hypervisor.find_snapshot(domain, snapshot)
            return self.run(domain, "delete_snapshot", self.hypervisor.delete_snapshot(host, domain, snapshot))

    def clone(self, vm: str, name: str, macs: Sequence[str]) -> Operation[str]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "clone")
            self.require(domain, "clone", STOPPED)
            if len(macs) != len(domain.config.nics) or not all(_MAC.match(mac) for mac in macs):
                raise InvalidRequest("the clone needs one MAC a NIC of the source", operation="clone", vm=vm)
            if any(known.config.name == name for _, known in self.hypervisor.domains()):
                raise Exists(f"the name {name!r} is taken", operation="clone", vm=vm)
            return self.run(domain, "clone", self.hypervisor.clone(host, domain, name, macs))


class SizeFacets(Core):
    """Resize, with confirm and revert, and disk growth."""

    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "resize")
            config = domain.config
            state = self.require(domain, "resize", STOPPED, RUNNING)
            new_vcpus, new_memory = vcpus or config.vcpus, memory_mib or config.memory_mib
            if (vcpus is not None and vcpus < 1) or (memory_mib is not None and memory_mib < 32):
                raise InvalidRequest("at least one vCPU and 32 MiB are needed", operation="resize", vm=vm)
            if new_memory > host.memory_mib or new_vcpus > _VCPU_LIMIT:
                limits = f"{host.name} has {_VCPU_LIMIT} vCPUs a VM and {host.memory_mib} MiB"
                raise QuotaExceeded(limits, operation="resize", vm=vm, host=host.name)
            if state is RUNNING and new_memory != config.memory_mib:
                raise self.refuse(Capability.RESIZE_HOT_MEMORY, "resize", vm)
            return self.run(domain, "resize", self._resizing(domain, new_vcpus, new_memory))

    def _resizing(self, domain: Domain, vcpus: int, memory_mib: int) -> Steps[None]:
        before = (domain.config.vcpus, domain.config.memory_mib)
        yield 0.05
        self.hypervisor.set_size(domain, vcpus, memory_mib)
        domain.trial = before

    def confirm_resize(self, vm: str) -> Operation[None]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "confirm_resize")
            self._on_trial(domain, "confirm_resize")
            domain.trial = None
            return Completed(None)

    def revert_resize(self, vm: str) -> Operation[None]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "revert_resize")
            vcpus, memory_mib = self._on_trial(domain, "revert_resize")
            if memory_mib != domain.config.memory_mib:
                self.require(domain, "revert_resize", STOPPED)
            self.idle(domain, "revert_resize")
            self.hypervisor.set_size(domain, vcpus, memory_mib)
            domain.trial = None
            return Completed(None)

    def _on_trial(self, domain: Domain, operation: str) -> tuple[int, int]:
        if domain.trial is None:
            nothing = "no resize is on trial"
            raise InvalidState(nothing, current=self.power(domain), operation=operation, vm=domain.config.uuid)
        return domain.trial

    def resize_disk(self, vm: str, serial: str, size_bytes: int) -> Operation[None]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "resize_disk")
            self.require(domain, "resize_disk", STOPPED, RUNNING, PAUSED)
            self.idle(domain, "resize_disk")
            if domain.config.disk(serial) is None:
                raise NotFound(f"no disk {serial!r}", operation="resize_disk", vm=vm)
            with translated("resize_disk", vm):
                self.hypervisor.grow(host, domain, serial, size_bytes)
            return Completed(None)


class MigrationFacets(Core):
    """Live and cold migration."""

    def migrate(self, vm: str, host: str, options: MigrateOptions = LIVE) -> Operation[None]:
        with self.world.clock.lock:
            source, domain = self.found(vm, "migrate")
            if options.postcopy:
                raise self.refuse(Capability.MIGRATE_POSTCOPY, "migrate", vm)
            if host not in self.target.hosts:
                raise InvalidRequest(f"no host {host!r}", operation="migrate", vm=vm)
            if options.target_storage and not options.copy_storage:
                raise InvalidRequest("target_storage without copy_storage", operation="migrate", vm=vm)
            self.require(domain, "migrate", *((RUNNING, PAUSED) if options.live else (STOPPED,)))
            storage = (options.target_storage or domain.config.storage) if options.copy_storage else ""
            if not options.live and not storage and not self.hypervisor.is_shared(domain.config.storage):
                storage = domain.config.storage
            self.idle(domain, "migrate")
            with translated("migrate", vm):
                target = self.hypervisor.check_migration(source, domain, host, storage)
            reported = Reported()
            steps = self.hypervisor.migrate(
                source,
                domain,
                target,
                target_storage=storage,
                bandwidth_mib_s=options.bandwidth_mib_s,
                progressed=reported,
            )
            return self.run(domain, "migrate", steps, abortable=True, reported=reported)


class DeviceFacets(Core):
    """NICs and volumes."""

    def attach_nic(self, vm: str, nic: NicSpec) -> Operation[str]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "attach_nic")
            self.require(domain, "attach_nic", RUNNING, STOPPED)
            if nic.network not in self.world.networks or not _MAC.match(nic.mac):
                raise InvalidRequest(f"no network {nic.network!r}, or a bad MAC", operation="attach_nic", vm=vm)
            steps = self.hypervisor.attach_nic(domain, nic.mac, nic.network, nic.anti_spoof)
            return self.run(domain, "attach_nic", steps)

    def detach_nic(self, vm: str, nic: str) -> Operation[None]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "detach_nic")
            if domain.config.nic(nic) is None:
                raise NotFound(f"no NIC {nic}", operation="detach_nic", vm=vm)
            self.require(domain, "detach_nic", RUNNING, STOPPED)
            return self.run(domain, "detach_nic", self.hypervisor.detach_nic(domain, nic), abandon=True)

    def set_link(self, vm: str, nic: str, connected: bool) -> Operation[None]:
        with self.world.clock.lock, translated("set_link", vm):
            _, domain = self.found(vm, "set_link")
            self.idle(domain, "set_link")
            self.hypervisor.set_link(domain, nic, connected)
            return Completed(None)

    def create_volume(self, name: str, disk: DiskSpec, storage: str = "") -> Operation[str]:
        with self.world.clock.lock:
            if disk.size_bytes <= 0:
                raise InvalidRequest("a volume needs a size", operation="create_volume", vm=name)
            wanted = storage or self.lab.storages[0].name
            with translated("create_volume", name):
                host = self.hypervisor.host(self.target.hosts[0])
                volume = self.hypervisor.create_volume(
                    host, name, self.target.slug, disk.serial, disk.size_bytes, wanted
                )
            return Completed(volume.id)

    def _own_volume(self, id: str, operation: str) -> Volume:
        with translated(operation):
            volume = self.hypervisor.volume(id)
        if volume.owner != self.target.slug:
            raise NotFound(f"no volume {id}", operation=operation)
        return volume

    def delete_volume(self, volume: str) -> Operation[None]:
        with self.world.clock.lock, translated("delete_volume"):
            self._own_volume(volume, "delete_volume")
            self.hypervisor.delete_volume(volume)
            return Completed(None)

    def volumes(self) -> Sequence[VolumeState]:
        with self.world.clock.lock:
            return [
                VolumeState(volume.id, volume.name, self._size(volume), tuple(filter(None, (volume.attached_to,))))
                for volume in self.world.volumes.values()
                if volume.owner == self.target.slug
            ]

    def _size(self, volume: Volume) -> int:
        return self.hypervisor.volume_host(volume).files.layer(volume.path).size_bytes

    def attach_volume(self, vm: str, volume: str) -> Operation[None]:
        with self.world.clock.lock:
            host, domain = self.found(vm, "attach_volume")
            wanted = self._own_volume(volume, "attach_volume")
            self.require(domain, "attach_volume", RUNNING, STOPPED)
            if wanted.attached_to and self.equivalent:
                raise Exists(f"volume {wanted.name} is attached", operation="attach_volume", vm=vm)
            operation = self.run(domain, "attach_volume", self._attaching(host, domain, volume))
            if operation.done():
                operation.wait()
            return operation

    def _attaching(self, host: Host, domain: Domain, volume: str) -> Steps[None]:
        yield from self.hypervisor.attach_volume(host, domain, volume)

    def detach_volume(self, vm: str, volume: str) -> Operation[None]:
        with self.world.clock.lock:
            _, domain = self.found(vm, "detach_volume")
            self._own_volume(volume, "detach_volume")
            self.require(domain, "detach_volume", RUNNING, STOPPED)
            return self.run(domain, "detach_volume", self.hypervisor.detach_volume(domain, volume), abandon=True)
