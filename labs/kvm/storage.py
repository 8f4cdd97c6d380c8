"""The lab's storages: file systems of their own in sparse files, so that filling one fills nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from labs.kvm.layout import HOSTS, Cell
from labs.kvm.nodes import Node

STORAGES = {"shared": True, "local": False}
"""Name, and whether both hosts see the same files."""

SIZE_MIB = 2048


def mount(cell: Cell, nodes: Mapping[str, Node]) -> None:
    """Make the file systems and mount them on the hosts; the loop devices go when the last mount goes."""
    for name, shared in STORAGES.items():
        cell.storage(name).mkdir(parents=True, exist_ok=True)
        for host in HOSTS:
            backing = cell.dir / "storage" / (f"{name}.img" if shared else f"{name}-{host}.img")
            _format(backing)
            # both hosts mount the same loop device: one superblock in one kernel, so this is no cluster file system
            nodes[host].shell.run(["mount", "-o", "loop,noatime", str(backing), str(cell.storage(name))])


def _format(backing: Path) -> None:
    if backing.exists():
        return
    fresh = backing.with_suffix(".new")
    with fresh.open("wb") as file:
        file.truncate(SIZE_MIB * 1024 * 1024)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", options, str(fresh)], check=True)
    fresh.rename(backing)
