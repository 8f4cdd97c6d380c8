"""What the hosts of one double share: the world, their VMs, and how they are set up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import PureWindowsPath
from typing import Any

from labs.hyperv_double.model.hypervisor import HyperV
from labs.hyperv_double.model.records import Vm
from labs.simulated.world.clock import Task
from labs.simulated.world.disks import File, Space
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host
from labs.simulated.world.world import World

MARKER = "hvconform"
"""Manufacturer of every machine of the double, by which a run on real hardware knows that it is none."""


@dataclass
class Knobs:
    """What can be set to go wrong, or to be set up differently, on a host."""

    production_falls_back: bool = False
    no_kvp: bool = False
    no_credentials: bool = False
    completes_with_warnings: bool = False
    migration_enabled: bool = True
    migration_authentication: str = "Kerberos"
    constrained_delegation: bool = True
    neighbours: bool = True


@dataclass
class Job:
    """A PowerShell job of one session."""

    id: int
    command: str
    task: Task[Any]
    percent: Any
    stopped: bool = False

    @property
    def state(self) -> str:
        if not self.task.done:
            return "Running"
        if self.stopped:
            return "Stopped"
        return "Completed" if self.task.error is None else "Failed"


@dataclass
class Site:
    """All hosts of one double."""

    world: World
    vms: dict[str, dict[str, Vm]] = field(default_factory=dict)
    knobs: dict[str, Knobs] = field(default_factory=dict)
    jobs: dict[str, dict[int, Job]] = field(default_factory=dict)
    policies: dict[str, dict[str, int]] = field(default_factory=dict)
    rules: dict[str, dict[str, str]] = field(default_factory=dict)
    fillers: dict[str, Space] = field(default_factory=dict)
    """Fixed disks that fill a volume, by path."""
    segments: dict[tuple[str, int], str] = field(default_factory=dict)
    """The world's network behind a switch and an access VLAN (0: untagged); by default a switch a network."""

    def __post_init__(self) -> None:
        self.hypervisor = HyperV(self)
        self.numbers = count(1)
        if not self.segments:
            self.segments = {(network.bridge, 0): network.name for network in self.world.inventory.networks}
        for host in self.world.hosts:
            self.vms[host] = {}
            self.knobs[host] = Knobs()
            self.policies[host] = {}
            self.rules[host] = {}

    def all_vms(self) -> Iterator[Vm]:
        for vms in self.vms.values():
            yield from vms.values()

    def by_uuid(self, uuid: str) -> Vm:
        for vm in self.all_vms():
            if vm.domain.config.uuid == uuid:
                return vm
        raise HypervisorError("no-domain", f"no domain {uuid}")

    def host_at(self, address: str) -> Host | None:
        """A host by the address or name that another one knows it by."""
        for host in self.world.inventory.hosts:
            if address.casefold() in (host.address.casefold(), host.name.casefold()):
                return self.world.hosts[host.name]
        return None

    # storage

    def storage_of(self, path: str) -> str:
        """The storage that a path lies on; raises ``no-file`` for a path on none."""
        folded = path.replace("/", "\\").casefold()
        for storage in self.world.inventory.storages:
            root = str(storage.path).casefold()
            if folded == root or folded.startswith(root + "\\"):
                return storage.name
        raise HypervisorError("no-file", f"The system cannot find the path '{path}'")

    def space_of(self, host: Host, path: str) -> Space:
        return host.spaces[self.storage_of(path)]

    def need_folder(self, host: Host, path: str) -> None:
        """Raise ``no-path`` where the folder that a file is to lie in is not there."""
        folder = str(PureWindowsPath(path).parent)
        roots = {str(storage.path).casefold() for storage in self.world.inventory.storages}
        if folder.casefold() not in roots and self.file(host, folder) is None:
            raise HypervisorError("no-path", f"'{path}': The system cannot find the path specified")

    def true_path(self, host: Host, path: str) -> str:
        """A path as it is written on the disk: Windows does not mind its case."""
        path = str(PureWindowsPath(path))
        if host.files.get(path) is not None:
            return path
        folded = path.casefold()
        return next((known for known in host.files.paths() if known.casefold() == folded), path)

    def file(self, host: Host, path: str) -> File | None:
        return host.files.get(self.true_path(host, path))


_sites: dict[int, Site] = {}


def site_of(world: World) -> Site:
    """The site of a world; made when it is asked for the first time."""
    with world.clock.lock:
        return _sites.setdefault(id(world), Site(world)) if id(world) not in _sites else _sites[id(world)]


def forget(world: World) -> None:
    _sites.pop(id(world), None)
