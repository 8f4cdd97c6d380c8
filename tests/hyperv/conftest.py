"""A double with its driver and its observers, spoken to through the real endpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from conformance import waiting
from conformance.lab import labs
from conformance.lab.inventory import LabInventory
from conformance.model import MIB, DiskSpec, NicSpec, VmSpec
from conformance.observers.guest import Guest
from conformance.observers.host import Entry
from drivers.hyperv.driver import HypervDriver
from labs.hyperv_double.lab import inventory
from labs.hyperv_double.observers import DoubleObservers
from labs.hyperv_double.site import Running, serve, stop
from labs.simulated import world as worlds

_numbers = itertools.count(1)


@dataclass
class Bench:
    """Everything a test of the driver on the double needs."""

    lab: LabInventory
    running: Running
    driver: HypervDriver
    observers: DoubleObservers

    def connect(self) -> HypervDriver:
        """Another driver for the same target."""
        made = labs.connect(self.lab, self.lab.targets[0])
        assert isinstance(made, HypervDriver)
        return made

    def knobs(self, host: str = "a") -> Any:
        return self.running.site.knobs[host]

    def spec(self, name: str = "", **changes: object) -> VmSpec:
        number = next(_numbers)
        fields: dict[str, object] = {
            "name": name or f"vm-{number}",
            "image": "hvconform",
            "nics": (NicSpec("net1", f"52:54:00:01:{number // 256:02x}:{number % 256:02x}"),),
            "disks": (DiskSpec(16 * MIB, "data0"),),
            "host": "a",
        }
        return VmSpec(**{**fields, **changes})  # type: ignore[arg-type]

    def create(self, name: str = "", **changes: object) -> tuple[str, VmSpec]:
        spec = self.spec(name, **changes)
        return self.driver.create(spec).wait(), spec

    def boot(self, **changes: object) -> tuple[str, VmSpec, Guest]:
        vm, spec = self.create(**changes)
        self.driver.start(vm).wait()
        guest = self.guest(spec)
        guest.wait_up()
        return vm, spec, guest

    def guest(self, spec: VmSpec) -> Guest:
        return Guest(self.observers.network_channel(spec.nics[0].network, spec.nics[0].mac), boot_s=10.0)

    def inventory(self) -> frozenset[Entry]:
        return frozenset[Entry]().union(*(self.observers.host(host.name).inventory() for host in self.lab.hosts))


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """`make_bench(**options)` is a bench whose target has these options, too."""
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        lab = inventory(f"bench-{next(_numbers)}", options)
        running = serve(lab)
        observers = DoubleObservers(lab)
        waiting.use_clock(observers.clock)
        driver = labs.connect(lab, lab.targets[0])
        assert isinstance(driver, HypervDriver)
        made.append(Bench(lab, running, driver, observers))
        return made[-1]

    yield make
    leaked = []
    for bench in made:
        bench.driver.close()
        bench.observers.close()
        leaked += [endpoint.open_shells for endpoint in bench.running.endpoints.values()]
        stop(bench.lab.name)
        worlds.forget(bench.lab.name)
    waiting.use_clock(None)
    assert not any(leaked), "shells were left on the hosts"


@pytest.fixture
def hv(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
