"""What the probes of hosts behind a shell have in common: files, logs, health, and faults that know no hypervisor."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

from conformance.errors import FaultNotFired, LabError, ProbeFailed
from conformance.lab.inventory import Host, LabInventory
from conformance.observers.host import HostDomain, Inventory
from conformance.shells.shell import Shell
from labs.hosts import faults

_WINDOW = 65536

# one process for all: a host keeps a log of every VM that it ever had
_LOG_SIZES = """
stat -c '%s %n' -- $1 2>/dev/null || :
"""
# first byte and path of each
_LOG_TAIL = """
while [ $# -gt 1 ]; do
    echo "== $2"; tail -c "+$1" "$2" | tail -c 65536
    shift 2
done
"""
_HEALTH = """
bridges=$1; shift
for b in $bridges; do
    [ -d "/sys/class/net/$b" ] || { echo "there is no bridge $b"; continue; }
    read -r flags < "/sys/class/net/$b/flags"
    [ "$((flags & 1))" = 1 ] || echo "the bridge $b is down"
done
for d in "$@"; do [ -d "$d" ] && [ -w "$d" ] || echo "the storage $d is not there or not writable"; done
"""


@dataclass(frozen=True, slots=True)
class Console:
    """A serial console that can be opened: a pseudo-terminal.

    `paused` is whether that VM's vCPUs are stopped: in the middle of a migration there are two.
    """

    path: str
    paused: bool


class ShellHostProbe(ABC):
    """Looks at one host through a shell, and breaks it on request. The driver's connection is never used."""

    logs: ClassVar[Sequence[str]]
    """Patterns of the hypervisor's logs."""
    daemons: ClassVar[Sequence[str]]
    """What the management daemon's process may be called."""
    answers: ClassVar[Sequence[str]]
    """A command that succeeds when the management daemon answers."""
    patience_s: ClassVar[float] = 20.0
    """How long a host that is well may take for one look at its health."""

    def __init__(self, lab: LabInventory, host: Host, shell: Shell) -> None:
        self._lab = lab
        self._host = host
        self.shell = shell
        self._places = [str(storage.path) for storage in lab.storages]
        self._bridges = [network.bridge for network in lab.networks]

    @property
    def host(self) -> str:
        return self._host.name

    @abstractmethod
    def domains(self) -> Sequence[HostDomain]: ...

    @abstractmethod
    def inventory(self) -> Inventory: ...

    @abstractmethod
    def console(self, uuid: str) -> Console | None:
        """The first serial console of a VM that runs here."""

    @abstractmethod
    def console_log(self, uuid: str) -> str:
        """The file that has what a VM wrote to its console; empty if there is none."""

    def disk_size(self, path: str) -> int:
        # -U: the image may be in use
        told = self.shell.run(["qemu-img", "info", "-U", "--output=json", path]).text
        return int(json.loads(told)["virtual-size"])

    def file_hash(self, path: str) -> str:
        return self.shell.run(["sha256sum", "-b", "--", path], timeout_s=300).text.removeprefix("\\")[:64]

    def exists(self, path: str) -> bool:
        # a link that points nowhere exists too
        return self.shell.script('[ -e "$1" ] || [ -L "$1" ]', path, check=False).status == 0

    def console_tail(self, uuid: str) -> bytes:
        path = self.console_log(uuid.lower())
        if not path or not self.exists(path):
            return b""
        return self.shell.run(["tail", "-c", str(_WINDOW), path]).stdout

    def log_mark(self) -> str:
        return json.dumps(self._log_sizes())

    def log_since(self, mark: str) -> str:
        before: dict[str, int] = json.loads(mark)  # it has nothing of a VM that came after it
        words = []
        for path, size in self._log_sizes().items():
            known = before.get(path, 0)
            if size != known:
                words += [str(1 if size < known else known + 1), path]
        return self.shell.script(_LOG_TAIL, *words, check=False).text[-_WINDOW:]

    def _log_sizes(self) -> dict[str, int]:
        lines = self.shell.script(_LOG_SIZES, " ".join(self.logs)).text.splitlines()
        return {path: int(size) for size, path in (line.split(" ", 1) for line in lines)}

    def health(self) -> list[str]:
        """What is wrong with the host itself, a sentence each."""
        try:
            words = [" ".join(self._bridges), *self._places]
            lines = self.shell.script(_HEALTH, *words, timeout_s=self.patience_s).text.splitlines()
            if self.shell.run(self.answers, check=False, timeout_s=self.patience_s).status != 0:
                lines.append("libvirt does not answer")
        except LabError as error:
            return [f"host {self.host}: {error}"]
        return [f"host {self.host}: {line}" for line in lines]

    def revive(self) -> str:
        """Start the management daemon again if it has died; says so, or nothing."""
        if not faults.revive_daemon(self.shell, self.host, self._host.service, self.daemons, self.answers):
            return ""
        return f"the management daemon of host {self.host} had died, and was started again"

    # faults

    @abstractmethod
    def kill_vm(self, uuid: str) -> None: ...

    @abstractmethod
    def stop_out_of_band(self, uuid: str) -> None: ...

    @abstractmethod
    def canary(self, name: str) -> AbstractContextManager[str]:
        """Make a VM that no driver made; yields its UUID."""

    def restart_management(self) -> None:
        faults.restart_daemon(self.shell, self.host, self._host.service, self.daemons, self.answers)

    def cut_link_to(self, other: str) -> AbstractContextManager[None]:
        host = self._lab.host(other)
        return faults.cut(self.shell, [address for address in (host.address, host.address6) if address])

    def fill_storage(self, storage: str) -> AbstractContextManager[None]:
        return faults.fill(self.shell, str(self._lab.storage(storage).path))

    def take_away(self, path: str) -> AbstractContextManager[None]:
        return faults.taken_away(self.shell, path)

    @contextmanager
    def create_canary(self, name: str) -> Iterator[HostDomain]:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ProbeFailed(f"{name!r} is no name for a canary: letters, digits, dots, dashes only")
        with self.canary(name) as uuid:
            found = self.find(uuid)
            if found is None:
                raise FaultNotFired(f"the canary {name} does not run on host {self.host}")
            yield found

    def find(self, uuid: str) -> HostDomain | None:
        """A VM that runs here."""
        return next((domain for domain in self.domains() if domain.uuid == uuid.lower() and domain.running), None)
