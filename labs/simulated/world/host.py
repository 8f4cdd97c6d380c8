"""A hypervisor host: memory, files, taps, rules, ports, domains, and the management daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labs.simulated.world.disks import Files, Space
from labs.simulated.world.domain import Domain
from labs.simulated.world.errors import HypervisorError

if TYPE_CHECKING:
    from labs.simulated.world.world import World


class Host:
    """One host. `domains` are keyed by UUID; `taps` and `rules` map a name to the MAC they are for."""

    def __init__(self, world: World, name: str, memory_mib: int, files: Files) -> None:
        self.world = world
        self.name = name
        self.memory_mib = memory_mib
        self.files = files
        self.domains: dict[str, Domain] = {}
        self.taps: dict[str, str] = {}
        self.rules: dict[str, str] = {}
        self.listeners: dict[int, str] = {}
        self.log: list[str] = []
        self.management_up = True
        self.cut_from: set[str] = set()
        self.spaces: dict[str, Space] = {}

    def note(self, text: str) -> None:
        """Write a line to the host's hypervisor log."""
        self.log.append(f"{self.world.clock.monotonic():12.6f} {self.name} {text}")

    def used_mib(self) -> int:
        """Memory of all VM processes."""
        return sum(domain.process.memory_mib for domain in self.domains.values() if domain.process)

    def claim_memory(self, mib: int) -> None:
        """Raises `HypervisorError` ``no-memory`` when `mib` more do not fit."""
        if self.used_mib() + mib > self.memory_mib:
            raise HypervisorError(
                "no-memory", f"{self.name} has {self.memory_mib - self.used_mib()} MiB left, {mib} MiB are needed"
            )
