"""The nested libvirt lab: up, down, status, and what this machine lacks for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from conformance.errors import HarnessError
from conformance.lab.inventory import LabInventory, load
from conformance.lab.lab import LabKind, LabStatus, Observers, Say
from conformance.paths import cache_dir
from conformance.waiting import now, until
from labs.kvm import certificates, daemons, describe, networks, nodes, requirements, storage
from labs.kvm.layout import HOSTS, Cell
from labs.libvirt_hosts.observers import LibvirtObservers
from labs.nested import accel, images
from labs.nested.cell import alone, empty, require, write
from labs.nested.networks import NETWORKS

_READY_S = 60.0


class KvmLab(LabKind):
    """Two libvirt hosts, a switch and a peer in every guest network, each in namespaces of its own."""

    kind: ClassVar[str] = "kvm"
    nested: ClassVar[bool] = True
    needs_root: ClassVar[bool] = True

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        return LibvirtObservers(inventory)

    @classmethod
    def up(cls, cell: int, state_dir: Path, say: Say) -> LabInventory:
        require(cls.missing())
        here = Cell(cell, state_dir.resolve())
        with alone(here.dir):
            if here.inventory_file.exists():
                wrong = _wrong(here)
                if not wrong:
                    say(f"{here.name} is up already: {here.inventory_file}")
                    return load(here.inventory_file)
                say(f"{here.name} is broken ({wrong}): building it again")
            _clear(here)
            return _build(here, say)

    @classmethod
    def down(cls, cell: int, state_dir: Path, say: Say) -> None:
        here = Cell(cell, state_dir.resolve())
        if not here.dir.exists():
            ended = nodes.end(here.mark)  # the folder may have been removed by hand under a running lab
            say(f"{here.name}: ended {', '.join(ended)}" if ended else f"{here.name} is not there")
            return
        with alone(here.dir):
            ended = _clear(here)
            say(f"{here.name}: ended {', '.join(ended)}" if ended else f"{here.name}: nothing was running")
            say(f"{here.name}: removed {here.dir}")

    @classmethod
    def status(cls, cell: int, state_dir: Path) -> LabStatus:
        here = Cell(cell, state_dir.resolve())
        if not here.inventory_file.exists():
            left = sorted(nodes.find(here.mark))
            if left:
                return LabStatus(here.name, "broken", f"half built: {', '.join(left)}")
            return LabStatus(here.name, "down")
        wrong = _wrong(here)
        if wrong:
            return LabStatus(here.name, "broken", wrong)
        inits = ", ".join(f"{name} {node.pid}" for name, node in sorted(nodes.find(here.mark).items()))
        return LabStatus(here.name, "up", f"{here.inventory_file}; enter with nsenter -a -t PID: {inits}")

    @classmethod
    def missing(cls) -> Sequence[tuple[str, str]]:
        return requirements.missing()


def _build(here: Cell, say: Say) -> LabInventory:
    start = now()
    catalogue = images.prepare(here.images, cache_dir(), say)
    kernel = next((image.kernel for image in catalogue if image.kernel is not None), None)
    found = accel.probe(cache_dir(), kernel)
    say(f"{here.name}: {found.note}" + (f" ({found.reason})" if found.reason else ""))
    addresses = {here.hostname(host): (here.address4(host), here.address6(host)) for host in HOSTS}
    certificates.write(here.pki, addresses)
    for host in HOSTS:
        daemons.configure(here, host)
        _warm(here, host)
    living = nodes.start(here.mark, {name: here.hostname(name) for name in here.nodes}, here.dir / "nodes")
    say(f"{here.name}: namespaces at {now() - start:.1f} s")
    networks.build(here, living)
    storage.mount(here, living)
    for host in HOSTS:
        daemons.mount(here, host, living[host], hide_kvm=found.name != "kvm")
        daemons.start(here, host, living[host])
    for network in NETWORKS:
        networks.start_dhcp(here, network, living[network.node])
    say(f"{here.name}: links, storage and DHCP at {now() - start:.1f} s")
    _both(lambda host: _ready(here, living, host))
    inventory = describe.inventory(here, living, catalogue, found)
    write(inventory, here.inventory_file)
    say(f"{here.name} is up after {now() - start:.1f} s: {here.inventory_file}")
    return load(here.inventory_file)


def _ready(here: Cell, living: Mapping[str, nodes.Node], host: str) -> None:
    until(f"libvirtd of host {host} to answer", lambda: daemons.answers(living[host]), seconds=_READY_S)
    # libvirt asks QEMU for its capabilities once: seconds that are spent here and not inside somebody's first test
    living[host].shell.run(["virsh", "-c", "qemu:///system", "domcapabilities"], timeout_s=_READY_S)
    _keep(here, host)


def _both(task: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(len(HOSTS)) as pool:
        list(pool.map(task, HOSTS))


def _warm(here: Cell, host: str) -> None:
    """Hand on what libvirt learned about QEMU in an earlier lab; libvirt itself checks whether it still holds."""
    kept = cache_dir() / "libvirt-capabilities"
    if kept.is_dir():
        shutil.copytree(kept, here.host_dir(host) / "cache" / "qemu" / "capabilities", dirs_exist_ok=True)


def _keep(here: Cell, host: str) -> None:
    learned = here.host_dir(host) / "cache" / "qemu" / "capabilities"
    kept = cache_dir() / "libvirt-capabilities"
    if host != HOSTS[0] or not learned.is_dir():
        return
    kept.mkdir(parents=True, exist_ok=True)
    for file in learned.glob("*.xml"):
        fresh = kept / f"{file.name}.{os.getpid()}"
        shutil.copy2(file, fresh)
        fresh.rename(kept / file.name)


def _wrong(here: Cell) -> str:
    """Why a lab that says it is up is not fit; empty when it is."""
    try:
        inventory = load(here.inventory_file)
        living = nodes.find(here.mark)
        gone = sorted(set(here.nodes) - set(living))
        if gone:
            return f"{', '.join(gone)} gone"
        pids = {host.name: getattr(host.shell, "pid", 0) for host in inventory.hosts}
        if any(living[host].pid != pid for host, pid in pids.items()):
            return "it was started again behind its lab file"
        observers = LibvirtObservers(inventory)
        try:
            return "; ".join(observers.health())
        finally:
            observers.close()
    except HarnessError as error:
        return str(error)


def _clear(here: Cell) -> list[str]:
    ended = nodes.end(here.mark)
    empty(here.dir)
    return ended
