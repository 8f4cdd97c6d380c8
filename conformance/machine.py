"""A VM under test as the suites see it: its id for the driver, and every observer that can look at it.

`Machines` makes them: it names them after the run, writes them to the ledger before they exist, and gets rid of them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conformance.driver import Driver, Volumes
from conformance.errors import DriverError, LabError, NotFound, NotObserved
from conformance.lab.inventory import Image, LabInventory, Network, Storage
from conformance.lab.lab import Observers
from conformance.lab.ledger import Ledger
from conformance.model import MIB, DiskSpec, Firmware, NicSpec, VmSpec
from conformance.observers.guest import Boot, Channel, Guest
from conformance.observers.host import HostDomain, HostProbe, ask_all
from conformance.observers.wire import WirePeer
from conformance.waiting import until

DATA = "data0"
"""Serial of the data disk that every default VM has."""

DATA_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast this lab is, measured with one guest booted at the start; every deadline is made from it.

    A typed-in factor would be wrong on the next machine: under TCG a boot takes two seconds or ten.
    """

    boot_seconds: float

    @property
    def boot(self) -> float:
        """Deadline for a boot."""
        return max(15.0, 12 * self.boot_seconds)

    @property
    def operation(self) -> float:
        """Deadline for one driver operation."""
        return max(30.0, 20 * self.boot_seconds)

    @property
    def settle(self) -> float:
        """Deadline for something small to be seen: a hot-plugged device, a reported state."""
        return max(5.0, 4 * self.boot_seconds)

    @property
    def glance(self) -> float:
        """How long to look when the point is that nothing happens."""
        return max(0.5, 0.25 * self.boot_seconds)


class Machine:
    """One VM under test.

    Args:
        id: The driver's id.
        spec: What was asked for.
        uuid: What the guest must find in its SMBIOS, as the driver reports it.
    """

    def __init__(self, id: str, spec: VmSpec, uuid: str, lab: LabInventory, observers: Observers, pace: Pace) -> None:
        self.id = id
        self.spec = spec
        self.uuid = uuid
        self._lab = lab
        self._observers = observers
        self.pace = pace

    def __repr__(self) -> str:
        return f"<Machine {self.spec.name} id={self.id}>"

    @property
    def guest(self) -> Guest:
        """The guest probe over the network of the first NIC."""
        nic = self.spec.nics[0]
        return self.guest_on(nic)

    def guest_on(self, nic: NicSpec) -> Guest:
        """The guest probe over one NIC's network."""
        return self._guest(self._observers.network_channel(nic.network, nic.mac))

    @property
    def serial(self) -> Guest:
        """The guest probe over the serial console, which needs no network."""
        return self._guest(self._observers.serial_channel(self.uuid))

    def _guest(self, channel: Channel) -> Guest:
        return Guest(channel, timeout_s=self.pace.settle, boot_s=self.pace.boot)

    @property
    def peer(self) -> WirePeer:
        """The wire peer in the network of the first NIC."""
        return self.peer_on(self.spec.nics[0])

    def peer_on(self, nic: NicSpec) -> WirePeer:
        """The wire peer in one NIC's network."""
        return self._observers.peer(nic.network)

    @property
    def mac(self) -> str:
        return self.spec.nics[0].mac

    def address(self, nic: NicSpec | None = None) -> str:
        """The IPv4 address that the network's DHCP server gave to a NIC, by default the first; waits for it."""
        nic = nic or self.spec.nics[0]
        peer, mac = self.peer_on(nic), nic.mac
        return until(f"a DHCP lease for {mac}", lambda: peer.lease(mac) or "", seconds=self.pace.settle)

    def domains(self) -> Sequence[HostDomain]:
        """Every trace of this VM as a domain, on every host, running or only defined."""
        probes = [self._observers.host(host.name) for host in self._lab.hosts]
        found = ask_all(probes, lambda probe: probe.domains())
        return [domain for domains in found for domain in domains if domain.uuid == self.uuid]

    def running_on(self) -> Sequence[str]:
        """The hosts on which a live VM process exists. More than one is the worst there is."""
        return sorted(domain.host for domain in self.domains() if domain.running)

    def domain(self) -> HostDomain:
        """The one running domain; raises `NotObserved` if there is none or more than one."""
        running = [domain for domain in self.domains() if domain.running]
        if len(running) != 1:
            raise NotObserved(f"{self.spec.name} runs on {[domain.host for domain in running] or 'no host'}")
        return running[0]

    def wall_clock_error(self) -> float:
        """By how many seconds the guest's wall clock is wrong, at least."""
        return self.guest.wall_clock_error(self._observers.realtime)

    def probe(self) -> HostProbe:
        """The probe of the host on which this VM runs."""
        return self.probe_on(self.domain().host)

    def probe_on(self, host: str) -> HostProbe:
        """The probe of a host by its lab name."""
        return self._observers.host(host)

    def other_host(self) -> str:
        """The lab name of a host that does not run this VM."""
        here = self.running_on()
        for host in self._lab.hosts:
            if host.name not in here:
                return host.name
        raise LabError("the lab has no second host", hint="add a [[host]] to the lab file")


class Machines:
    """Makes machines for one test (or one provenance) and gets rid of them all.

    Args:
        driver: The driver under test, as the harness records it.
        tag: What every name starts with: the run's and the worker's.
        on_boot: Told the seconds of each boot that was waited for: real ones, whatever the lab's clock says.
        on_silence: Told that a guest was waited for in vain.
    """

    _numbers = itertools.count(1)

    def __init__(
        self,
        driver: Driver,
        lab: LabInventory,
        observers: Observers,
        ledger: Ledger,
        pace: Pace,
        tag: str,
        on_boot: Callable[[float], None] = lambda _: None,
        on_silence: Callable[[], None] = lambda: None,
    ) -> None:
        self._driver = driver
        self._lab = lab
        self._observers = observers
        self._ledger = ledger
        self._on_boot = on_boot
        self._on_silence = on_silence
        self.pace = pace
        self.tag = tag
        self._names: list[str] = []
        self._ids: list[str] = []
        self._volumes: list[str] = []
        self._named: list[str] = []
        self.made: list[Machine] = []
        """Every machine made here, gone ones too: whose consoles explain a failure."""

    # what to ask for

    @property
    def named(self) -> Sequence[str]:
        """Every name given here, those already disposed of too."""
        return self._named

    @property
    def image(self) -> Image:
        """The image that VMs boot from unless a test says otherwise."""
        return self._lab.images[0]

    @property
    def networks(self) -> Sequence[Network]:
        """The guest networks of the lab."""
        return self._lab.networks

    def image_for(self, firmware: Firmware) -> Image:
        """The lab's image for this firmware; raises `LabError` when there is none."""
        for image in self._lab.images:
            if image.firmware is firmware and image.image_id:
                return image
        raise LabError(f"the lab has no {firmware} image", hint="add an [[image]] to the lab file")

    def storage(self, *, shared: bool) -> Storage:
        """The lab's storage of this sort; raises `LabError` when there is none."""
        for storage in self._lab.storages:
            if storage.shared is shared:
                return storage
        raise LabError(f"the lab has no {'shared' if shared else 'local'} storage", hint="add a [[storage]]")

    def name(self) -> str:
        """A new name, unique in the lab, in the ledger from now on."""
        name = f"{self.tag}-{next(self._numbers)}"
        self.promise(name)
        return name

    def promise(self, name: str) -> None:
        """Write a name to the ledger: whatever will be made under it can be found again."""
        self._ledger.promise(name)
        self._names.append(name)
        self._named.append(name)

    def mac(self) -> str:
        """A new MAC, locally administered and unique in the lab."""
        return self._ledger.new_mac()

    def nic(self, network: str = "", *, anti_spoof: bool = False) -> NicSpec:
        return NicSpec(network or self._lab.networks[0].name, self.mac(), anti_spoof)

    def spec(self, **changes: Any) -> VmSpec:
        """The default VM: one vCPU, 128 MiB, one NIC, one data disk; `changes` are fields of `VmSpec`."""
        if "name" in changes:
            self.promise(changes["name"])
        spec = VmSpec(
            name=changes.get("name") or self.name(),
            image=self.image.name,
            nics=changes["nics"] if "nics" in changes else (self.nic(),),
            disks=(DiskSpec(DATA_BYTES, DATA),),
            host=self._lab.hosts[0].name,
        )
        return replace(spec, **changes)

    # making

    def create(self, spec: VmSpec | None = None, **changes: Any) -> Machine:
        """Make a stopped VM."""
        spec = spec or self.spec(**changes)
        id = self._driver.create(spec).wait()
        return self.adopt(id, spec)

    def adopt(self, id: str, spec: VmSpec) -> Machine:
        """Look after a VM that the driver made in another way, such as a clone."""
        self._ids.append(id)
        machine = Machine(id, spec, self._driver.get(id).uuid.lower(), self._lab, self._observers, self.pace)
        self.made.append(machine)
        return machine

    def boot(self, spec: VmSpec | None = None, **changes: Any) -> Machine:
        """Make a VM, start it and wait until its agent answers."""
        machine = self.create(spec, **changes)
        self._driver.start(machine.id).wait()
        self.wait_up(machine)
        return machine

    def wait_up(self, machine: Machine) -> Boot:
        """Wait for the agent of a VM that is booting; counted as the hypervisor's time, not ours."""
        return self._waited(machine.guest.wait_up)

    def wait_new_boot(self, machine: Machine, before: Boot) -> Boot:
        """Wait for the agent of a VM that is rebooting."""
        return self._waited(lambda: machine.guest.wait_new_boot(before))

    def _waited(self, wait: Callable[[], Boot]) -> Boot:
        start = time.perf_counter()
        try:
            boot = wait()
        except NotObserved:
            self._on_silence()
            raise
        self._on_boot(time.perf_counter() - start)
        return boot

    def volume(self, size_bytes: int = DATA_BYTES, *, serial: str = "vol0", storage: str = "") -> str:
        """Make a volume and return its id."""
        id = self._driver.facet(Volumes).create_volume(self.name(), DiskSpec(size_bytes, serial), storage).wait()
        self._volumes.append(id)
        return id

    # getting rid of them

    def dispose(self) -> Sequence[str]:
        """Delete everything made here; what the driver could not delete is said, a sentence each, and reclaimed."""
        problems = [problem for problem in self._delete_all() if problem]
        for name in self._names:
            if problems:
                try:
                    self._driver.reclaim(name)
                except DriverError as error:
                    problems.append(f"reclaim {name}: {error}")
                    continue  # it stays in the ledger, for the sweep
            self._ledger.settle(name)
        self._names.clear()
        return problems

    def _delete_all(self) -> Iterator[str]:
        while self._ids:
            id = self._ids.pop()
            try:
                self._driver.delete(id).wait()
            except NotFound:
                continue
            except DriverError as error:
                yield f"delete {id}: {error}"
        while self._volumes:
            id = self._volumes.pop()
            try:
                self._driver.facet(Volumes).delete_volume(id).wait()
            except NotFound:
                continue
            except DriverError as error:
                yield f"delete volume {id}: {error}"
