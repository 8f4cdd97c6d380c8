"""The hypervisor's own interface to VMs, which a driver calls: definitions, power, suspend and jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from labs.simulated.world.clock import Steps, Task
from labs.simulated.world.disks import Layer, PlainFile
from labs.simulated.world.domain import Config, DiskConfig, Domain, MemoryFile, NicConfig
from labs.simulated.world.errors import HypervisorError
from labs.simulated.world.host import Host
from labs.simulated.world.process import Process
from labs.simulated.world.world import World

T = TypeVar("T")

START_S = 0.05
SUSPEND_S = 0.2
BUTTON_S = 0.25
UNPLUG_S = 0.1

ASKING = ("stop", "reboot")
"""Jobs that only wait for the guest: whoever cuts the power does not have to wait for their end."""


class HypervisorBase:
    """Definitions, power and jobs. Stateless: everything is in the world, so any number of these see the same."""

    def __init__(self, world: World) -> None:
        self.world = world

    # finding

    def host(self, name: str) -> Host:
        """A host whose management answers; raises ``unreachable`` or ``bad-request``."""
        host = self.world.hosts.get(name)
        if host is None:
            raise HypervisorError("bad-request", f"no host {name!r}")
        if not host.management_up:
            raise HypervisorError("unreachable", f"the management of {name} does not answer")
        return host

    def domain(self, uuid: str) -> tuple[Host, Domain]:
        """A VM and the host it is on; the target of a migration under way does not count."""
        for host in self.world.hosts.values():
            domain = host.domains.get(uuid)
            if domain is not None and not domain.incoming:
                return self.host(host.name), domain
        raise HypervisorError("no-domain", f"no domain {uuid}")

    def domains(self) -> Iterator[tuple[Host, Domain]]:
        """All VMs on all hosts that answer."""
        for host in self.world.hosts.values():
            if host.management_up:
                yield from ((host, domain) for domain in host.domains.values() if not domain.incoming)

    # jobs

    def job(self, domain: Domain, name: str, steps: Steps[T]) -> Task[T]:
        """Carry out steps as the one job of a VM; raises ``busy`` while there is another."""
        if domain.job:
            steps.close()
            raise HypervisorError("busy", f"{domain.config.name} is busy with: {domain.job}")
        domain.job = name

        def ended() -> None:
            domain.job, domain.task = "", None

        task = Task(self.world.clock, steps, ended)
        domain.task = None if task.done else task
        return task

    def end_job(self, domain: Domain, only: Sequence[str] = ()) -> None:
        """Abort the job of a VM, of any kind or of one of those named."""
        if domain.task is not None and (not only or domain.job in only):
            domain.task.cancel(HypervisorError("aborted", f"{domain.job} was aborted"))

    # definitions

    def storage_path(self, storage: str) -> str:
        for known in self.world.inventory.storages:
            if known.name == storage:
                return str(known.path)
        raise HypervisorError("bad-request", f"no storage {storage!r}")

    def is_shared(self, storage: str) -> bool:
        return any(known.shared for known in self.world.inventory.storages if known.name == storage)

    def state_path(self, domain: Domain) -> str:
        """Where the RAM of a suspended VM goes."""
        return f"{self.storage_path(domain.config.storage)}/{domain.config.uuid}.state"

    def new_layer_path(self, host: Host, storage: str, uuid: str, slot: int) -> str:
        stem = f"{self.storage_path(storage)}/{uuid}-disk{slot}"
        number = 0
        while host.files.get(f"{stem}.{number}.img") is not None:
            number += 1
        return f"{stem}.{number}.img"

    def define(self, host: Host, config: Config, disks: Sequence[tuple[str, Layer]]) -> Domain:
        """Make a VM with new disks: (serial, layer) each. Removes what it made if it fails."""
        if any(known.config.name == config.name for _, known in self.domains()):
            raise HypervisorError("exists", f"the name {config.name!r} is taken")
        made: list[str] = []
        try:
            for serial, layer in disks:
                slot = config.slot()
                path = self.new_layer_path(host, config.storage, config.uuid, slot)
                assert layer.space is not None
                layer.space.claim()
                host.files.put(path, layer)
                made.append(path)
                config.disks.append(DiskConfig(serial, path, slot))
        except HypervisorError:
            for path in made:
                host.files.remove(path)
            raise
        domain = Domain(config, PlainFile())
        host.files.put(console_path(config.uuid), domain.console)
        if config.firmware == "uefi":
            host.files.put(nvram_path(config.uuid), PlainFile(b"NVRAM"))
        host.domains[config.uuid] = domain
        host.note(f"defined {config.name}")
        return domain

    def undefine(self, host: Host, domain: Domain) -> None:
        """Remove a VM and every file it owns; volumes stay."""
        self.destroy(domain)
        for path in self.owned_files(host, domain):
            host.files.remove(path)
        for volume in self.world.volumes.values():
            if volume.attached_to == domain.config.uuid:
                volume.attached_to = ""
        host.domains.pop(domain.config.uuid, None)
        host.note(f"undefined {domain.config.name}")

    def owned_files(self, host: Host, domain: Domain) -> list[str]:
        """Paths of everything that belongs to a VM and to nobody else."""
        config = domain.config
        found = [console_path(config.uuid), nvram_path(config.uuid), domain.state_path]
        found += [snapshot.memory_path for snapshot in domain.snapshots.values()]
        found += self.owned_layers(host, domain)
        return [path for path in found if path and host.files.get(path) is not None]

    def owned_layers(self, host: Host, domain: Domain) -> list[str]:
        """Paths of all layers of a VM's own disks, those of snapshots too."""
        config = domain.config
        volumes = {disk.serial for disk in config.disks if disk.volume}
        paths = [disk.path for disk in config.disks if not disk.volume]
        for snapshot in domain.snapshots.values():
            foreign = volumes | {disk.serial for disk in snapshot.config.disks if disk.volume}
            paths += [path for serial, path in snapshot.layers.items() if serial not in foreign]
        return list(dict.fromkeys(path for path in paths if host.files.get(path) is not None))

    # power

    def start(self, host: Host, domain: Domain) -> Steps[None]:
        """Power on, or bring a suspended VM back."""
        if domain.process is not None:
            self.destroy(domain)  # what is left of a crashed guest
        host.claim_memory(domain.config.memory_mib)
        process = Process(domain, host)
        domain.process = process
        domain.failed = False
        try:
            yield START_S
        except HypervisorError:
            process.end()
            raise
        saved = host.files.get(domain.state_path) if domain.state_path else None
        if isinstance(saved, MemoryFile):
            process.adopt(saved.guest)
            saved.guest.set_wall_clock()
            host.files.remove(domain.state_path)
            domain.state_path = ""
        else:
            process.power_on()
        host.note(f"started {domain.config.name}")

    def destroy(self, domain: Domain) -> None:
        """Cut the power."""
        if domain.process is not None:
            domain.process.host.note(f"destroyed {domain.config.name}")
            domain.process.end()

    def reset(self, domain: Domain) -> None:
        """Press the reset button."""
        process = self.process(domain)
        process.reset()
        process.host.note(f"reset {domain.config.name}")

    def process(self, domain: Domain) -> Process:
        if domain.process is None:
            raise HypervisorError("bad-state", f"{domain.config.name} is not running")
        return domain.process

    def ask_guest(self, domain: Domain, *, reboot: bool, grace_s: float) -> Steps[None]:
        """Ask the guest to power off or reboot, again and again, until it does; raises ``guest-refused``.

        A request during early boot is lost, as on a real machine; that is why it is repeated.
        """
        process = self.process(domain)
        guest = process.guest
        waited = 0.0
        while process.alive and process.guest is guest and guest is not None:
            if waited >= grace_s:
                raise HypervisorError("guest-refused", f"the guest did not follow within {grace_s:.0f} s")
            guest.request_reboot() if reboot else guest.press_power_button()
            yield BUTTON_S
            waited += BUTTON_S
        if reboot and not process.alive:
            raise HypervisorError("guest-refused", "the guest powered off instead")

    def pause(self, domain: Domain) -> None:
        self.process(domain).pause()

    def resume(self, domain: Domain) -> None:
        process = self.process(domain)
        process.resume()
        if process.guest is not None:
            process.guest.set_wall_clock()

    def suspend(self, host: Host, domain: Domain) -> Steps[None]:
        """Write RAM to a file and end the process. On failure the guest goes on."""
        process = self.process(domain)
        was_paused = process.paused
        path = self.state_path(domain)
        process.pause()
        try:
            host.spaces[domain.config.storage].claim()
            yield SUSPEND_S
            host.spaces[domain.config.storage].claim()
        except HypervisorError:
            if not was_paused:
                process.resume()
            raise
        guest = process.release_guest()
        host.files.put(path, MemoryFile(guest, f"ram of {domain.config.uuid}"))
        domain.state_path = path
        process.end()

    # devices

    def new_nic(self, config: Config, mac: str, network: str, anti_spoof: bool) -> NicConfig:
        """Add a NIC to a configuration."""
        if network not in self.world.networks:
            raise HypervisorError("bad-request", f"no network {network!r}")
        if any(nic.mac == mac for _, domain in self.domains() for nic in domain.config.nics):
            raise HypervisorError("exists", f"the MAC {mac} is in use")
        slot = config.slot()
        nic = NicConfig(f"{config.uuid[:8]}-{slot}", mac, network, anti_spoof, slot)
        config.nics.append(nic)
        return nic

    def attach_nic(self, domain: Domain, mac: str, network: str, anti_spoof: bool) -> Steps[str]:
        """Add a NIC, hot if the VM runs."""
        nic = self.new_nic(domain.config, mac, network, anti_spoof)
        if domain.process is not None:
            domain.process.plug(nic)
            try:
                yield UNPLUG_S
            except HypervisorError:
                domain.config.nics.remove(nic)
                domain.process.unplug(mac)
                raise
            process: Process | None = domain.process
            guest = process.guest if process is not None else None
            if guest is not None and guest.memory.up:
                guest.nic_added(mac)
        return nic.id

    def detach_nic(self, domain: Domain, id: str) -> Steps[None]:
        """Remove a NIC once the guest has let go of it; raises ``guest-refused`` if it never does."""
        nic = domain.config.nic(id)
        if nic is None:
            raise HypervisorError("no-nic", f"no NIC {id}")
        yield from self.guest_releases(domain)
        if domain.process is not None:
            domain.process.unplug(nic.mac)
            if domain.process.guest is not None:
                domain.process.guest.nic_removed(nic.mac)
        with suppress(ValueError):
            domain.config.nics.remove(nic)

    def guest_releases(self, domain: Domain, patience_s: float = 10.0) -> Steps[None]:
        """Wait until the guest has answered an unplug request: one that boots does so later, a hung one never."""
        waited = 0.0
        while domain.process is not None:
            guest = domain.process.guest
            yield UNPLUG_S
            if guest is not None and guest.answering:
                return
            waited += UNPLUG_S
            if waited >= patience_s:
                raise HypervisorError("guest-refused", "the guest does not let go of the device")

    def set_link(self, domain: Domain, id: str, connected: bool) -> None:
        nic = domain.config.nic(id)
        if nic is None:
            raise HypervisorError("no-nic", f"no NIC {id}")
        nic.link = connected
        if domain.process is not None and nic.mac in domain.process.vifs:
            domain.process.vifs[nic.mac].port.link = connected

    def set_size(self, domain: Domain, vcpus: int, memory_mib: int) -> None:
        """Change the configuration, and the vCPUs of a running VM at once."""
        domain.config.vcpus, domain.config.memory_mib = vcpus, memory_mib
        domain.config.max_vcpus = max(domain.config.max_vcpus, vcpus)
        if domain.process is not None:
            domain.process.vcpus = vcpus


def console_path(uuid: str) -> str:
    return f"/var/log/vms/{uuid}.console.log"


def nvram_path(uuid: str) -> str:
    return f"/var/lib/vms/{uuid}.nvram"


Progressed = Callable[[float, str], None]
"""Takes the fraction done, 0.0 to 1.0, and the phase."""
