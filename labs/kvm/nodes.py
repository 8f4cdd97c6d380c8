"""Nodes of a nested lab: sets of namespaces, each held by one process and gone with it.

Nothing is named in /run/netns and nothing is recorded: a node is found again by the mark in its holder's command
line, so that a lab whose runner was killed at any point can be taken over or down. The holder is `unshare`, which
takes the node's PID 1 with it (--kill-child); with PID 1 the kernel ends every process of the node, and then its
links, mounts and loop devices.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conformance.shells.shell import NamespaceShell
from conformance.waiting import until
from labs.nested.processes import alive, command_lines, pids
from labs.nested.processes import end as end_processes

# PID 1 of a node. It reaps: the machine's own may take seconds for it, while libvirt waits for its QEMUs to be gone.
_INIT = """
hostname "$3" && mount -t sysfs sysfs /sys && ip link set lo up && : > "$4" || exit 1
sleep infinity &
while :; do wait; done
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that lives. `pid` is its PID 1 as this machine numbers it."""

    name: str
    pid: int
    holder: int

    @property
    def shell(self) -> NamespaceShell:
        return NamespaceShell(self.pid)


def start(mark: str, names: dict[str, str], folder: Path) -> dict[str, Node]:
    """Start nodes and wait until their namespaces are ready.

    Args:
        mark: See `find`.
        names: Node name to host name.
        folder: Where each node says that it is ready, as ``<name>.ready``, and its log goes.

    Raises:
        WaitTimeout: A node did not come up; its log says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, hostname in names.items():
        ready = folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        # setsid -f: a holder is nobody's child, as it outlives this process
        unshare = ["setsid", "-f", "unshare", "-n", "-m", "-u", "-p", "-f", "--kill-child=SIGKILL", "--mount-proc"]
        with (folder / f"{name}.log").open("wb") as log:
            subprocess.run(
                [*unshare, "sh", "-c", _INIT, mark, mark, name, hostname, str(ready)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                check=True,
            )
    until(
        f"the namespaces of {', '.join(names)}",
        lambda: {name for name in names if (folder / f"{name}.ready").exists()},
        lambda ready: len(ready) == len(names),
        seconds=15,
        interval=0.01,
    )
    return find(mark)


def find(mark: str) -> dict[str, Node]:
    """The living nodes with a mark, by name."""
    holders: dict[str, int] = {}
    inits: dict[str, int] = {}
    for pid, name in _marked(mark):
        (inits if _is_init(pid) else holders)[name] = pid
    return {name: Node(name, pid, holders.get(name, pid)) for name, pid in inits.items()}


def end(mark: str) -> list[str]:
    """End every node with a mark, and wait until each is gone; returns their names."""
    names = sorted({name for _, name in _marked(mark)})
    inside = {pid for node in find(mark).values() for pid in processes(node)}
    end_processes(f"the nodes of {mark}", [pid for pid, _ in _marked(mark)])
    until(
        f"the processes inside {mark} to end",
        lambda: [pid for pid in inside if alive(pid)],
        lambda left: not left,
        seconds=30,
        interval=0.02,
    )
    return names


def processes(node: Node) -> list[int]:
    """Every process in a node's PID namespace."""
    try:
        namespace = os.readlink(f"/proc/{node.pid}/ns/pid")  # noqa: PTH115 - not a path
    except OSError:
        return []
    found = []
    for pid in pids():
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:  # noqa: PTH115
                found.append(pid)
    return found


def _marked(mark: str) -> Iterator[tuple[int, str]]:
    for pid, words in command_lines():
        # mark, mark, name: twice, so that a shell that somebody started with the mark in a command is not it
        where = next((at for at, word in enumerate(words[:-2]) if word == mark), None)
        if where is not None and words[where + 1] == mark:
            yield pid, words[where + 2]


def _is_init(pid: int) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return len(numbers) > 1 and numbers[-1] == "1"
    return False
