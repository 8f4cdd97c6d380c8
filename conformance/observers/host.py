"""What a host probe can be asked: the truth on a hypervisor host, by a channel that is never the driver's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

P = TypeVar("P")
T = TypeVar("T")


class Kind(StrEnum):
    """What an inventory entry is."""

    DOMAIN = "domain"
    PROCESS = "process"
    FILE = "file"
    INTERFACE = "interface"
    RULE = "rule"
    PORT = "port"
    MOUNT = "mount"


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One thing on a host. `name` identifies it across two looks; `detail` explains it to a reader."""

    host: str
    kind: Kind
    name: str
    detail: str = field(default="", compare=False)


Inventory = frozenset[Entry]
"""Everything on the hosts that a VM could leave behind. Things that change by themselves are not in it."""


@dataclass(frozen=True, slots=True)
class HostDomain:
    """A VM as the hypervisor's own tools show it.

    `running` is whether a live VM process (or Xen domain) exists; `paused` whether its vCPUs are stopped; `pid` is 0
    when there is no process. `vcpu_seconds` is CPU time of the vCPUs alone since the process began.
    """

    uuid: str
    name: str
    host: str
    running: bool
    paused: bool = False
    pid: int = 0
    vcpu_seconds: float = 0.0
    vcpus: int = 0
    memory_mib: int = 0
    macs: tuple[str, ...] = ()
    disk_paths: tuple[str, ...] = ()


class HostProbe(Protocol):
    """Looks at one host, and breaks it on request.

    Every method may raise `conformance.errors.ProbeFailed` or `HostDown`: a lab error, never the driver's.
    """

    @property
    def host(self) -> str:
        """The host's lab name."""
        ...

    def domains(self) -> Sequence[HostDomain]:
        """All VMs on this host, running or only defined, whoever made them."""
        ...

    def inventory(self) -> Inventory:
        """Everything on this host that a VM could leave behind: see `Kind`."""
        ...

    def disk_size(self, path: str) -> int:
        """Virtual size in bytes of a disk image file."""
        ...

    def file_hash(self, path: str) -> str:
        """SHA-256 of a file's bytes, as hexadecimal."""
        ...

    def exists(self, path: str) -> bool: ...

    def console_tail(self, uuid: str) -> bytes:
        """The last 64 KiB that the VM wrote to its serial console; empty if there is no log."""
        ...

    def log_mark(self) -> str:
        """A point in the host's hypervisor log, for `log_since`."""
        ...

    def log_since(self, mark: str) -> str:
        """At most the last 64 KiB of the hypervisor log since `mark`."""
        ...

    # faults: each raises FaultNotFired when what it did had no effect

    def kill_vm(self, uuid: str) -> None:
        """Kill the VM's process without warning."""
        ...

    def restart_management(self) -> None:
        """Kill the management daemon and bring it back; returns when it answers."""
        ...

    def cut_link_to(self, other: str) -> AbstractContextManager[None]:
        """Drop (not reject) the migration traffic between this host and `other`; management traffic goes on."""
        ...

    def fill_storage(self, storage: str) -> AbstractContextManager[None]:
        """Leave no free byte on a storage."""
        ...

    def take_away(self, path: str) -> AbstractContextManager[None]:
        """Move a file out of the way, as a failing storage would; it is put back at the end."""
        ...

    def stop_out_of_band(self, uuid: str) -> None:
        """Stop a VM with the hypervisor's own tool, behind the driver's back."""
        ...

    def create_canary(self, name: str) -> AbstractContextManager[HostDomain]:
        """A foreign VM that no driver made, for proving that it stays untouched."""
        ...


def residue(before: Inventory, after: Inventory) -> Mapping[str, Sequence[Entry]]:
    """What appeared and what vanished between two looks. Both empty means that nothing was left behind."""
    return {"appeared": sorted(after - before), "vanished": sorted(before - after)}


def ask_all(probes: Sequence[P], ask: Callable[[P], T]) -> list[T]:
    """Ask several hosts, all at once; the answers come in the order of the probes."""
    with ThreadPoolExecutor(len(probes)) as pool:
        return list(pool.map(ask, probes))
