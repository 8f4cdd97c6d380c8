"""What a hypervisor keeps about a VM: its configuration, its snapshots, its files, and the process while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labs.simulated.world.disks import PlainFile

if TYPE_CHECKING:
    from labs.simulated.world.clock import Task
    from labs.simulated.world.process import Process

_CONSOLE_BYTES = 256 * 1024


@dataclass(slots=True)
class DiskConfig:
    """A disk of a VM. `path` is its active layer; `volume` names the volume it belongs to, if any."""

    serial: str
    path: str
    slot: int
    volume: str = ""


@dataclass(slots=True)
class NicConfig:
    """A NIC of a VM. `guard` keeps its port to its own MAC; `anti_spoof` to its addresses, too."""

    id: str
    mac: str
    network: str
    anti_spoof: bool
    slot: int
    link: bool = True
    guard: bool = False


@dataclass(slots=True)
class Config:
    """A VM's definition. `owner` says who made it; empty for a VM that no driver knows."""

    uuid: str
    name: str
    owner: str
    vcpus: int
    memory_mib: int
    max_vcpus: int
    firmware: str
    storage: str
    disks: list[DiskConfig] = field(default_factory=list)
    nics: list[NicConfig] = field(default_factory=list)
    next_slot: int = 3

    def slot(self) -> int:
        """A bus slot that was never used."""
        self.next_slot += 1
        return self.next_slot - 1

    def disk(self, serial: str) -> DiskConfig | None:
        return next((disk for disk in self.disks if disk.serial == serial), None)

    def nic(self, id: str) -> NicConfig | None:
        return next((nic for nic in self.nics if nic.id == id), None)


@dataclass(slots=True)
class Snapshot:
    """A point in a VM's life: its configuration then, the frozen layer of each disk, and RAM where it was asked for."""

    id: str
    name: str
    parent: str | None
    config: Config
    layers: dict[str, str]
    memory_path: str = ""
    paused: bool = False


@dataclass(slots=True)
class Volume:
    """A disk with a life of its own. `path` is its active layer, `host` the only host it is on ("" when shared)."""

    id: str
    name: str
    owner: str
    serial: str
    storage: str
    path: str
    host: str = ""
    attached_to: str = ""


class MemoryFile(PlainFile):
    """A VM's RAM on disk: a suspended VM, or the memory of a snapshot."""

    def __init__(self, guest: Any, label: str) -> None:
        super().__init__(label.encode())
        self.guest = guest


class Domain:
    """One VM on one host. During a live migration the target has a second one, which is `incoming`."""

    def __init__(self, config: Config, console: PlainFile) -> None:
        self.config = config
        self.process: Process | None = None
        self.incoming = False
        self.state_path = ""
        self.snapshots: dict[str, Snapshot] = {}
        self.current: str | None = None
        self.console = console
        self.job = ""
        self.task: Task[Any] | None = None
        self.trial: tuple[int, int] | None = None
        self.failed = False

    def write_console(self, data: bytes) -> None:
        self.console.data = (self.console.data + data)[-_CONSOLE_BYTES:]
