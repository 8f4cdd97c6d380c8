"""The hypervisor's disks: volumes, growth, snapshots as layers, and full copies."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from labs.simulated.world.clock import Steps
from labs.simulated.world.disks import Layer, PlainFile
from labs.simulated.world.domain import Config, DiskConfig, Domain, MemoryFile, Snapshot, Volume
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.guest import Guest, Memory
from labs.simulated.world.host import Host
from labs.simulated.world.hypervisor import UNPLUG_S, HypervisorBase
from labs.simulated.world.process import Process

SNAPSHOT_S = 0.1
COPY_S = 0.3


class SavedMemory(MemoryFile):
    """The RAM that a snapshot holds: a copy, restored as often as one likes."""

    def __init__(self, guest: Guest, label: str) -> None:
        super().__init__(None, label)
        self.memory: Memory = copy.deepcopy(guest.memory)
        self.monotonic_ns = guest.monotonic_ns()


class StorageCalls(HypervisorBase):
    """What can be done with disks."""

    # volumes

    def create_volume(self, host: Host, name: str, owner: str, serial: str, size: int, storage: str) -> Volume:
        """Make a volume that reads as zeros."""
        space = host.spaces.get(storage)
        if space is None:
            raise HypervisorError("bad-request", f"no storage {storage!r}")
        if any(known.name == name for known in self.world.volumes.values()):
            raise HypervisorError("exists", f"the name {name!r} is taken")
        space.claim()
        id = self.world.new_uuid()
        path = self.new_layer_path(host, storage, f"volume-{id}", 0)
        host.files.put(path, Layer(size, space=space))
        where = "" if self.is_shared(storage) else host.name
        volume = Volume(id, name, owner, serial, storage, path, where)
        self.world.volumes[id] = volume
        return volume

    def volume(self, id: str) -> Volume:
        volume = self.world.volumes.get(id)
        if volume is None:
            raise HypervisorError("no-volume", f"no volume {id}")
        return volume

    def volume_host(self, volume: Volume) -> Host:
        return self.host(volume.host or next(iter(self.world.hosts)))

    def delete_volume(self, id: str) -> None:
        """Remove a volume with all its layers; raises ``busy`` while it is attached."""
        volume = self.volume(id)
        if volume.attached_to:
            raise HypervisorError("busy", f"volume {volume.name} is attached to {volume.attached_to}")
        files = self.volume_host(volume).files
        for layer in list(files.layer(volume.path).chain()):
            files.remove(files.path_of(layer))
        del self.world.volumes[id]

    def attach_volume(self, host: Host, domain: Domain, id: str) -> Steps[None]:
        volume = self.volume(id)
        if volume.attached_to:
            raise HypervisorError("busy", f"volume {volume.name} is attached to {volume.attached_to}")
        if volume.host and volume.host != host.name:
            raise HypervisorError("bad-request", f"volume {volume.name} is on {volume.host}, the VM on {host.name}")
        if domain.config.disk(volume.serial) is not None:
            raise HypervisorError("exists", f"a disk with serial {volume.serial} is attached already")
        layer = host.files.layer(volume.path)
        volume.attached_to = domain.config.uuid
        try:
            yield UNPLUG_S
        except HypervisorError:
            volume.attached_to = ""
            raise
        domain.config.disks.append(DiskConfig(volume.serial, volume.path, domain.config.slot(), volume.id))
        if domain.process is not None:
            domain.process.layers[volume.serial] = layer

    def detach_volume(self, domain: Domain, id: str) -> Steps[None]:
        """Detach once the guest has let go; raises ``guest-refused`` if it never does."""
        disk = next((disk for disk in domain.config.disks if disk.volume == id), None)
        if disk is None:
            raise HypervisorError("no-volume", f"volume {id} is not attached to {domain.config.name}")
        yield from self.guest_releases(domain)
        self.drop_disk(domain, disk)

    def drop_disk(self, domain: Domain, disk: DiskConfig) -> None:
        """Take a volume out of a VM, live and in its configuration."""
        domain.config.disks.remove(disk)
        if domain.process is not None:
            domain.process.layers.pop(disk.serial, None)
        self.volume(disk.volume).attached_to = ""

    def grow(self, host: Host, domain: Domain, serial: str, size_bytes: int) -> None:
        """Grow a disk; raises ``bad-request`` for a smaller size or an unknown serial."""
        disk = domain.config.disk(serial)
        if disk is None:
            raise HypervisorError("bad-request", f"no disk {serial!r}")
        layer = host.files.layer(disk.path)
        if size_bytes < layer.size_bytes:
            raise HypervisorError("bad-request", f"a disk of {layer.size_bytes} bytes cannot shrink to {size_bytes}")
        layer.size_bytes = size_bytes

    # snapshots

    def snapshot(self, host: Host, domain: Domain, name: str, *, memory: bool, quiesce: bool) -> Steps[str]:
        """Freeze every disk's active layer under a new one; with `memory`, keep RAM of the same instant."""
        process = domain.process
        guest = process.guest if process else None
        if quiesce and (guest is None or not guest.answering):
            raise HypervisorError("guest-refused", "the guest does not freeze its file systems")
        self.claim_space(host, domain)
        was_paused = process.paused if process else False
        if guest is not None:
            guest.memory.frozen = quiesce
        try:
            yield SNAPSHOT_S
            self.claim_space(host, domain)
        finally:
            if guest is not None:
                guest.memory.frozen = False
        return self._take(host, domain, name, guest if memory else None, paused=was_paused)

    def claim_space(self, host: Host, domain: Domain) -> None:
        for disk in domain.config.disks:
            space = host.files.layer(disk.path).space
            if space is not None:
                space.claim()

    def _take(self, host: Host, domain: Domain, name: str, guest: Guest | None, *, paused: bool) -> str:
        config = copy.deepcopy(domain.config)
        snapshot = Snapshot(self.world.new_uuid(), name, domain.current, config, {}, paused=paused)
        for disk in domain.config.disks:
            snapshot.layers[disk.serial] = disk.path
            self.new_top(host, domain, disk, host.files.layer(disk.path))
        if guest is not None:
            path = self.ram_path(domain, snapshot)
            host.files.put(path, SavedMemory(guest, f"ram of {config.uuid} at {name}"))
            snapshot.memory_path = path
        domain.snapshots[snapshot.id] = snapshot
        domain.current = snapshot.id
        return snapshot.id

    def ram_path(self, domain: Domain, snapshot: Snapshot) -> str:
        """Where the RAM of a snapshot goes."""
        return f"{self.storage_path(domain.config.storage)}/{domain.config.uuid}.{snapshot.id}.ram"

    def new_top(self, host: Host, domain: Domain, disk: DiskConfig, below: Layer) -> None:
        """Put a new, empty layer on `below` and make it the active one."""
        volume = self.world.volumes.get(disk.volume)
        stem = f"volume-{volume.id}" if volume else domain.config.uuid
        storage = volume.storage if volume else domain.config.storage
        path = self.new_layer_path(host, storage, stem, 0 if volume else disk.slot)
        host.files.put(path, Layer(below.size_bytes, "qcow2", below, below.space))
        disk.path = path
        if volume is not None:
            volume.path = path
        if domain.process is not None:
            domain.process.layers[disk.serial] = host.files.layer(path)

    def find_snapshot(self, domain: Domain, id: str) -> Snapshot:
        snapshot = domain.snapshots.get(id)
        if snapshot is None:
            raise HypervisorError("no-snapshot", f"no snapshot {id}")
        return snapshot

    def revert(self, host: Host, domain: Domain, id: str) -> Steps[None]:
        """Bring disks and configuration back, and RAM if the snapshot has it; else a running VM boots afresh."""
        snapshot = self.find_snapshot(domain, id)
        for disk in snapshot.config.disks:
            now = domain.config.disk(disk.serial)
            if disk.volume and (now is None or now.volume != disk.volume):
                raise HypervisorError("bad-request", f"the volume {disk.serial} of then is not attached now")
        running, paused = domain.process is not None, domain.process is not None and domain.process.paused
        self.claim_space(host, domain)
        yield SNAPSHOT_S
        self.destroy(domain)
        self.forget_state(host, domain)
        self._restore_config(domain, snapshot)
        for disk in domain.config.disks:
            self.revert_disk(host, domain, disk, snapshot)
        domain.current = snapshot.id
        if snapshot.memory_path or running:
            domain.process = Process(domain, host)
            self._bring_up(host, domain, snapshot, paused=paused)

    def _bring_up(self, host: Host, domain: Domain, snapshot: Snapshot, *, paused: bool) -> None:
        process = self.process(domain)
        saved = host.files.get(snapshot.memory_path) if snapshot.memory_path else None
        if isinstance(saved, SavedMemory):
            guest = Guest(process)
            guest.copy_of(saved.memory, saved.monotonic_ns)
            process.adopt(guest, paused=snapshot.paused)
            guest.set_wall_clock()
            for mac in process.vifs:
                guest.station(mac)
        else:
            process.power_on()
            if paused:
                process.pause()

    def forget_state(self, host: Host, domain: Domain) -> None:
        """Drop the RAM of a suspended VM, which does not fit its disks any more."""
        if domain.state_path:
            host.files.remove(domain.state_path)
            domain.state_path = ""

    def _restore_config(self, domain: Domain, snapshot: Snapshot) -> None:
        """The configuration of then; volumes attached since are detached and keep their data."""
        then = copy.deepcopy(snapshot.config)
        now = domain.config
        for disk in [disk for disk in now.disks if disk.volume and then.disk(disk.serial) is None]:
            self.drop_disk(domain, disk)
        for disk in then.disks:
            current = now.disk(disk.serial)
            if current is not None:
                disk.path = current.path
        then.name, then.owner, then.storage = now.name, now.owner, now.storage
        then.next_slot = max(then.next_slot, now.next_slot)
        domain.config = then

    def revert_disk(self, host: Host, domain: Domain, disk: DiskConfig, snapshot: Snapshot) -> None:
        """Throw the active layer away and start a new one on the snapshot's."""
        frozen = snapshot.layers.get(disk.serial)
        if frozen is None:
            return
        below = host.files.layer(frozen)
        if disk.path not in self._frozen(domain):
            host.files.remove(disk.path)
        self.new_top(host, domain, disk, below)

    def _frozen(self, domain: Domain) -> set[str]:
        return {path for snapshot in domain.snapshots.values() for path in snapshot.layers.values()}

    def delete_snapshot(self, host: Host, domain: Domain, id: str) -> Steps[None]:
        """Merge the snapshot's layers into whatever stands on them; over when they are gone."""
        snapshot = self.find_snapshot(domain, id)
        yield SNAPSHOT_S
        for path in snapshot.layers.values():
            self.merge(host, path)
        if snapshot.memory_path:
            host.files.remove(snapshot.memory_path)
        for other in domain.snapshots.values():
            if other.parent == id:
                other.parent = snapshot.parent
        if domain.current == id:
            domain.current = snapshot.parent
        del domain.snapshots[id]

    def merge(self, host: Host, path: str) -> None:
        """Pull one layer into all that stand on it, and remove it."""
        layer = host.files.get(path)
        for other in self._all_layers(host, path):
            if other.backing is layer:
                other.absorb_backing()
        host.files.remove(path)

    def _all_layers(self, host: Host, path: str) -> Sequence[Layer]:
        folder = path.rpartition("/")[0] + "/"
        found = (host.files.get(known) for known in host.files.paths() if known.startswith(folder))
        return [file for file in found if isinstance(file, Layer)]

    # clones

    def clone(self, host: Host, source: Domain, name: str, macs: Sequence[str]) -> Steps[str]:
        """A full, independent copy of the disks under a new identity; volumes are left out."""
        old = source.config
        config = Config(
            uuid=self.world.new_uuid(),
            name=name,
            owner=old.owner,
            vcpus=old.vcpus,
            memory_mib=old.memory_mib,
            max_vcpus=old.max_vcpus,
            firmware=old.firmware,
            storage=old.storage,
        )
        for nic, mac in zip(old.nics, macs, strict=True):
            self.new_nic(config, mac, nic.network, nic.anti_spoof)
        yield COPY_S
        own = [disk for disk in old.disks if not disk.volume]
        space = host.spaces[old.storage]
        copies = [(disk.serial, host.files.layer(disk.path).flat(space)) for disk in own]
        domain = self.define(host, config, copies)
        nvram = host.files.get(f"/var/lib/vms/{old.uuid}.nvram")
        if isinstance(nvram, PlainFile):
            host.files.put(f"/var/lib/vms/{config.uuid}.nvram", PlainFile(nvram.data))
        return domain.config.uuid
