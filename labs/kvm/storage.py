"""The lab's storages: file systems of their own in sparse files, so that filling one fills nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from labs.kvm.layout import HOSTS, Cell
from labs.kvm.nodes import Node
from labs.nested import storage


def mount(cell: Cell, nodes: Mapping[str, Node]) -> None:
    """Make the file systems and mount them on the hosts; the loop devices go when the last mount goes."""
    for name, shared in storage.STORAGES.items():
        cell.storage(name).mkdir(parents=True, exist_ok=True)
        for host in HOSTS:
            backing = cell.dir / "storage" / (f"{name}.img" if shared else f"{name}-{host}.img")
            storage.format(backing)
            # both hosts mount the same loop device: one superblock in one kernel, so this is no cluster file system
            nodes[host].shell.run(["mount", "-o", "loop,noatime", str(backing), str(cell.storage(name))])
