"""The world's hypervisor as Hyper-V does it: where its files lie, how checkpoints merge, what moves with a VM."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

from labs.hyperv_double.model.records import Vm, base_name, join, parent
from labs.simulated.world.clock import Steps
from labs.simulated.world.disks import File, Layer, PlainFile
from labs.simulated.world.domain import DiskConfig, Domain, Snapshot
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host
from labs.simulated.world.migration import Hypervisor, Move
from labs.simulated.world.storage import SNAPSHOT_S

if TYPE_CHECKING:
    from labs.hyperv_double.model.site import Site

_LAYER = re.compile(r"_[0-9A-Fa-f-]{36}$")


class Folder(File):
    """A folder, which on Windows may be left behind empty."""

    def content(self) -> Iterator[bytes]:
        return iter(())


class HyperV(Hypervisor):
    """What differs from the world's own hypervisor.

    Args:
        site: The hosts' own records.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site.world)
        self._site = site
        self.folders: dict[str, str] = {}
        """Where a storage migration under way brings the files of a VM, by its UUID."""

    def record(self, domain: Domain) -> Vm:
        return self._site.by_uuid(domain.config.uuid)

    # files

    def state_path(self, domain: Domain) -> str:
        return self.record(domain).file("vmrs")

    def ram_path(self, domain: Domain, snapshot: Snapshot) -> str:
        return join(self.record(domain).path, "Snapshots", f"{snapshot.id.upper()}.VMRS")

    def keep_files(self, vm: Vm) -> None:
        """Every VM has its configuration and its runtime file, saved or not."""
        files = self.world.hosts[vm.host].files
        for folder in (vm.path, join(vm.path, "Virtual Machines")):
            if files.get(folder) is None:
                files.put(folder, Folder())
        for suffix in ("vmcx", "vmrs"):
            if files.get(vm.file(suffix)) is None:
                files.put(vm.file(suffix), PlainFile(f"{suffix} of {vm.id}".encode()))

    def drop_files(self, vm: Vm) -> None:
        """Remove the configuration; disks stay."""
        files = self.world.hosts[vm.host].files
        for suffix in ("vmcx", "vmrs"):
            files.remove(vm.file(suffix))
        for snapshot in vm.domain.snapshots.values():
            files.remove(snapshot.memory_path)

    # checkpoints

    def new_top(self, host: Host, domain: Domain, disk: DiskConfig, below: Layer) -> None:
        """A differencing disk beside the one that it stands on, named after it and a new GUID."""
        path = host.files.path_of(below)
        name = _LAYER.sub("", PureWindowsPath(path).stem)
        made = join(parent(path), f"{name}_{self.world.new_uuid().upper()}.avhdx")
        layer = Layer(below.size_bytes, "qcow2", below, below.space)
        layer.identifier = below.identifier
        host.files.put(made, layer)
        disk.path = made
        if domain.process is not None:
            domain.process.layers[disk.serial] = layer

    def delete_snapshot(self, host: Host, domain: Domain, id: str) -> Steps[None]:
        """Forget a checkpoint and merge what then nobody needs, child into parent."""
        snapshot = self.find_snapshot(domain, id)
        host.files.remove(snapshot.memory_path)
        for other in domain.snapshots.values():
            if other.parent == id:
                other.parent = snapshot.parent
        if domain.current == id:
            domain.current = snapshot.parent
        del domain.snapshots[id]
        self.record(domain).checkpoints.pop(id, None)
        yield SNAPSHOT_S
        self.collapse(host, domain)

    def collapse(self, host: Host, domain: Domain) -> None:
        """Merge every layer that no checkpoint needs into the one below it."""
        while any(self._collapse_one(host, domain, disk.serial) for disk in domain.config.disks):
            continue

    def _collapse_one(self, host: Host, domain: Domain, serial: str) -> bool:
        active = domain.config.disk(serial)
        assert active is not None
        needed = {snapshot.layers[serial] for snapshot in domain.snapshots.values() if serial in snapshot.layers}
        for child in list(host.files.layer(active.path).chain()):
            layer = child.backing
            path = host.files.path_of(layer) if layer is not None else ""
            if layer is None or not path or path in needed or not host.files.path_of(child).endswith(".avhdx"):
                continue
            children = [other for other in self._layers_beside(host, path) if other.backing is layer]
            if children == [child]:
                self._merge_down(host, domain, child, path)
                return True
        for path in self._unused(host, active, needed):
            host.files.remove(path)
        return False

    def _merge_down(self, host: Host, domain: Domain, child: Layer, path: str) -> None:
        """The child takes up what it stands on, and then its place."""
        old = host.files.path_of(child)
        child.absorb_backing()
        host.files.remove(old)
        host.files.put(path, child)
        for disk in domain.config.disks:
            disk.path = path if disk.path == old else disk.path
        for snapshot in domain.snapshots.values():
            snapshot.layers = {name: path if at == old else at for name, at in snapshot.layers.items()}

    def _unused(self, host: Host, active: DiskConfig, needed: set[str]) -> list[str]:
        """Layers of this disk on which nothing stands any more and which nobody names."""
        name = _LAYER.sub("", PureWindowsPath(active.path).stem)
        found = []
        for path in host.files.paths():
            if parent(path) != parent(active.path) or not path.endswith(".avhdx"):
                continue
            if _LAYER.sub("", PureWindowsPath(path).stem) != name or path in needed or path == active.path:
                continue
            layer = host.files.layer(path)
            if not any(other.backing is layer for other in self._layers_beside(host, path)):
                found.append(path)
        return found

    @staticmethod
    def _layers_beside(host: Host, path: str) -> list[Layer]:
        files = (host.files.get(known) for known in host.files.paths() if parent(known) == parent(path))
        return [file for file in files if isinstance(file, Layer)]

    def forget_state(self, host: Host, domain: Domain) -> None:
        super().forget_state(host, domain)
        self.keep_files(self.record(domain))

    def start(self, host: Host, domain: Domain) -> Steps[None]:
        # a new worker process has a new pipe, and whoever read the old one has ended with it
        domain.console = PlainFile()
        yield from super().start(host, domain)
        self.keep_files(self.record(domain))

    # migration

    def plan_copies(self, move: Move) -> None:
        """The disks go to ``Virtual Hard Disks`` in the destination's folder."""
        folder = self.folders[move.domain.config.uuid]
        files, space = move.target.files, move.target.spaces[move.target_storage]
        for made in (folder, join(folder, "Virtual Machines"), join(folder, "Virtual Hard Disks")):
            files.put(made, Folder())
        for path in self.owned_layers(move.source, move.domain):
            wanted = join(folder, "Virtual Hard Disks", base_name(path))
            if files.get(wanted) is not None:
                raise HypervisorError("exists", f"The file '{wanted}' exists")
            space.claim()
            files.put(wanted, Layer(move.source.files.layer(path).size_bytes, space=space))
            move.copied[path] = wanted
        self.rewrite(move.incoming.config, move)

    def adopt_domain(self, move: Move) -> None:
        vm = self._site.vms[move.source.name][self.record(move.domain).id]
        super().adopt_domain(move)
        self.drop_files(vm)
        del self._site.vms[move.source.name][vm.id]
        vm.host, vm.domain = move.target.name, move.incoming
        vm.path = self.folders.pop(move.domain.config.uuid, vm.path)
        for snapshot in vm.domain.snapshots.values():
            file = move.target.files.get(snapshot.memory_path)
            if file is not None and move.target_storage:
                move.target.files.remove(snapshot.memory_path)
                snapshot.memory_path = self.ram_path(vm.domain, snapshot)
                move.target.files.put(snapshot.memory_path, file)
        vm.domain.console = PlainFile()
        self._site.vms[move.target.name][vm.id] = vm
        self.keep_files(vm)
