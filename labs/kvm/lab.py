"""The nested libvirt lab: how it is built, what ends it, and what of it may be lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from conformance.lab.inventory import LabInventory, load
from conformance.lab.lab import Observers, Say
from conformance.paths import cache_dir
from conformance.waiting import now, until
from labs.kvm import certificates, daemons, describe, networks, nodes, requirements, storage
from labs.kvm.layout import HOSTS, Cell
from labs.libvirt_hosts.observers import LibvirtObservers
from labs.nested import accel, images
from labs.nested.cell import write
from labs.nested.lab import NestedLab
from labs.nested.networks import NETWORKS

_READY_S = 60.0


class KvmLab(NestedLab[Cell]):
    """Two libvirt hosts, a switch and a peer in every guest network, each in namespaces of its own."""

    kind: ClassVar[str] = "kvm"
    needs_root: ClassVar[bool] = True

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        return LibvirtObservers(inventory)

    @classmethod
    def missing(cls) -> Sequence[tuple[str, str]]:
        return requirements.missing()

    @classmethod
    def cell(cls, number: int, folder: Path) -> Cell:
        return Cell(number, folder)

    @classmethod
    def build(cls, here: Cell, say: Say) -> LabInventory:
        return _build(here, say)

    @classmethod
    def living(cls, here: Cell) -> Sequence[str]:
        return list(nodes.find(here.mark))

    @classmethod
    def end(cls, here: Cell) -> Sequence[str]:
        return nodes.end(here.mark)

    @classmethod
    def lost(cls, here: Cell, inventory: LabInventory) -> str:
        living = nodes.find(here.mark)
        gone = sorted(set(here.nodes) - set(living))
        if gone:
            return f"{', '.join(gone)} gone"
        pids = {host.name: getattr(host.shell, "pid", 0) for host in inventory.hosts}
        if any(living[host].pid != pid for host, pid in pids.items()):
            return "it was started again behind its lab file"
        return ""

    @classmethod
    def way_in(cls, here: Cell) -> str:
        inits = ", ".join(f"{name} {node.pid}" for name, node in sorted(nodes.find(here.mark).items()))
        return f"nsenter -a -t PID: {inits}"


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
