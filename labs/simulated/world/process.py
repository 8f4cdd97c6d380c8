"""A VM's process on a host: vCPUs, RAM, open disk layers, and taps plugged into bridges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labs.simulated.world.disks import Layer
from labs.simulated.world.domain import Domain, NicConfig
from labs.simulated.world.guest import Guest
from labs.simulated.world.network import Network, Port, anti_spoof, own_mac

if TYPE_CHECKING:
    from labs.simulated.world.host import Host

_IDLE_LOAD = 0.1


@dataclass(slots=True)
class Vif:
    """A NIC of a running VM and the port it is plugged into."""

    config: NicConfig
    network: Network
    port: Port


class Process:
    """The process of a VM. Made stopped and empty; `power_on` boots a guest in it, `adopt` continues one.

    Args:
        domain: Whose process it is.
        host: Where it runs.
    """

    def __init__(self, domain: Domain, host: Host) -> None:
        self.domain = domain
        self.host = host
        self.pid = host.world.new_pid()
        self.paused = True
        self.alive = True
        self.vcpus = domain.config.vcpus
        self.memory_mib = domain.config.memory_mib
        self.guest: Guest | None = None
        self.layers: dict[str, Layer] = {}
        self.vifs: dict[str, Vif] = {}
        self.console_port = host.world.new_console_port()
        self._ran_ns = 0
        self._since_ns: int | None = None
        for disk in domain.config.disks:
            self.layers[disk.serial] = host.files.layer(disk.path)
        for nic in domain.config.nics:
            self.plug(nic)

    # vCPUs

    @property
    def vcpu_seconds(self) -> float:
        """CPU time of the vCPUs; an idle guest uses a tenth of one."""
        running = self.host.world.clock.now_ns - self._since_ns if self._since_ns is not None else 0
        return (self._ran_ns + running) / 1e9 * _IDLE_LOAD

    def power_on(self) -> None:
        """Boot."""
        self.guest = Guest(self)
        self.resume()
        self.guest.boot()

    def adopt(self, guest: Guest, *, paused: bool = False) -> None:
        """Go on with a guest that ran elsewhere."""
        self.guest = guest
        guest.process = self
        if not paused:
            self.resume()

    def resume(self) -> None:
        self.paused = False
        if self.guest is not None:
            self.guest.run(self)
            if self._since_ns is None:
                self._since_ns = self.host.world.clock.now_ns

    def pause(self) -> None:
        self.paused = True
        if self.guest is not None:
            self.guest.halt()
        self._stop_counting()

    def _stop_counting(self) -> None:
        if self._since_ns is not None:
            self._ran_ns += self.host.world.clock.now_ns - self._since_ns
            self._since_ns = None

    def release_guest(self) -> Guest:
        """Let go of the guest, halted, so that another process can adopt it."""
        self.pause()
        guest, self.guest = self.guest, None
        assert guest is not None
        guest.process = None
        return guest

    def reset(self) -> None:
        """The machine is reset: RAM is lost, the guest boots again."""
        if self.guest is not None:
            self.guest.halt()
            self.guest.process = None
        self.power_on()

    def powered_off(self) -> None:
        """The guest has switched the machine off."""
        self.end()

    def end(self) -> None:
        """The process ends, in whatever way."""
        if not self.alive:
            return
        self.alive = False
        if self.guest is not None:
            self.guest.halt()
            self.guest.process = None
        self._stop_counting()
        for mac in list(self.vifs):
            self.unplug(mac)
        if self.domain.process is self:
            self.domain.process = None

    # devices

    def disk_slot(self, serial: str) -> int:
        disk = self.domain.config.disk(serial)
        return disk.slot if disk else 0

    def plug(self, nic: NicConfig) -> None:
        """Make a tap and plug it into the network's bridge, its rule first."""
        world = self.host.world
        network = world.networks[nic.network]
        allows = None
        if nic.anti_spoof:
            allows = anti_spoof(nic.mac, lambda: network.leases.get(nic.mac, ""), network.ipv6)
        elif nic.guard:
            allows = own_mac(nic.mac)
        port = Port(f"tap-{nic.id}", self.host.name, lambda frame: self._receive(nic.mac, frame), allows, nic.link)
        network.plug(port)
        self.host.taps[port.name] = nic.mac
        if allows is not None:
            self.host.rules[f"anti-spoof {port.name}"] = nic.mac
        self.vifs[nic.mac] = Vif(nic, network, port)

    def unplug(self, mac: str) -> None:
        vif = self.vifs.pop(mac)
        vif.network.unplug(vif.port)
        self.host.taps.pop(vif.port.name, None)
        self.host.rules.pop(f"anti-spoof {vif.port.name}", None)

    def _receive(self, mac: str, frame: bytes) -> None:
        if self.guest is not None:
            self.guest.receive(mac, frame)
