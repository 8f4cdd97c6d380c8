"""What a Hyper-V host keeps about a VM that the simulated world has no place for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PureWindowsPath

from labs.simulated.world.domain import Domain


@dataclass(frozen=True, slots=True)
class Place:
    """Where a drive is plugged in."""

    controller: str
    number: int
    location: int


@dataclass
class Adapter:
    """A network adapter. `mac` is the world's form; empty: Hyper-V gives one at the first start, to nobody's use here.

    `switch` is empty while it is disconnected; the world's NIC, if there is one, is found by its MAC.
    """

    id: str
    name: str
    mac: str = ""
    switch: str = ""
    vlan: int = 0
    spoofing: str = "Off"
    dhcp_guard: str = "Off"
    router_guard: str = "Off"


@dataclass
class Checkpoint:
    """What a checkpoint holds besides the world's snapshot: how it was made, and the settings of then."""

    id: str
    state: str
    created: float
    adapters: list[Adapter]
    notes: str


@dataclass
class Vm:
    """A VM on a host. `id` is Hyper-V's; `domain.config.uuid` is what its SMBIOS shows.

    `path` is the folder of its configuration; `places` says where a disk is plugged in, by its slot in the world.
    """

    id: str
    domain: Domain
    host: str
    generation: int
    path: str
    notes: str = ""
    checkpoint_type: str = "Production"
    static_memory: bool = False
    secure_boot: bool = True
    created: float = 0.0
    places: dict[int, Place] = field(default_factory=dict)
    adapters: list[Adapter] = field(default_factory=list)
    ports: dict[int, str] = field(default_factory=dict)
    empty: list[Place] = field(default_factory=list)
    """Drives with no disk in them."""
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    version: str = "9.0"

    @property
    def name(self) -> str:
        return self.domain.config.name

    def file(self, suffix: str, folder: str = "Virtual Machines") -> str:
        return join(self.path, folder, f"{self.id.upper()}.{suffix}")


def join(folder: str, *names: str) -> str:
    return str(PureWindowsPath(folder, *names))


def base_name(path: str) -> str:
    return PureWindowsPath(path).name


def parent(path: str) -> str:
    return str(PureWindowsPath(path).parent)
