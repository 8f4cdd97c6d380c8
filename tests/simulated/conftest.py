"""A small simulated lab for each test, with its driver and its observers, on the world's clock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from conformance import waiting
from conformance.lab.inventory import LabInventory
from conformance.model import MIB, DiskSpec, NicSpec, VmSpec
from conformance.observers.guest import Guest
from conformance.observers.host import Entry
from drivers.simulated import SimulatedDriver
from labs.simulated import world as worlds
from labs.simulated.lab import inventory
from labs.simulated.observers import SimulatedObservers
from labs.simulated.world import World

_numbers = itertools.count(1)


@dataclass
class Bench:
    """Everything a test of the simulated lab needs."""

    lab: LabInventory
    world: World
    driver: SimulatedDriver
    observers: SimulatedObservers

    def create(self, name: str = "", **changes: object) -> tuple[str, VmSpec]:
        """A stopped VM with one NIC and one data disk."""
        number = next(_numbers)
        fields: dict[str, object] = {
            "name": name or f"vm-{number}",
            "image": "hvconform",
            "nics": (NicSpec("net1", f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"),),
            "disks": (DiskSpec(4 * MIB, "data0"),),
            "host": "a",
        }
        spec = VmSpec(**{**fields, **changes})  # type: ignore[arg-type]
        return self.driver.create(spec).wait(), spec

    def boot(self, **changes: object) -> tuple[str, VmSpec, Guest]:
        """A VM that is up."""
        vm, spec = self.create(**changes)
        self.driver.start(vm).wait()
        guest = self.guest(spec)
        guest.wait_up()
        return vm, spec, guest

    def guest(self, spec: VmSpec, nic: int = 0) -> Guest:
        return Guest(self.observers.network_channel(spec.nics[nic].network, spec.nics[nic].mac), boot_s=10.0)

    def sleep(self, seconds: float) -> None:
        self.world.clock.sleep(seconds)

    def everything(self) -> frozenset[Entry]:
        return frozenset().union(*(self.observers.host(host).inventory() for host in ("a", "b")))


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    made: list[str] = []

    def make(**options: object) -> Bench:
        lab = inventory(f"bench-{next(_numbers)}", {"simulated": options})
        made.append(lab.name)
        observers = SimulatedObservers(lab)
        waiting.use_clock(observers.clock)
        return Bench(lab, worlds.get(lab), SimulatedDriver.connect(lab, lab.target("simulated")), observers)

    yield make
    waiting.use_clock(None)
    for name in made:
        worlds.forget(name)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
