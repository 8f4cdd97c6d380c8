"""The probe of a host that runs libvirt with QEMU."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from conformance.errors import FaultNotFired, LabError, ProbeFailed
from conformance.lab.inventory import Host, LabInventory
from conformance.observers.host import HostDomain, Inventory
from conformance.observers.shell import Shell
from labs.libvirt_hosts import faults
from labs.libvirt_hosts.look import Look, look

_WINDOW = 65536

_LOG_SIZES = """
for f in /var/log/libvirt/libvirtd.log /var/log/libvirt/virtqemud.log /var/log/libvirt/qemu/*.log; do
    [ ! -f "$f" ] || stat -c '%s %n' "$f"
done
"""
# the mark as arguments: size path size path ...
_LOG_TAIL = """
while [ $# -gt 1 ]; do
    size=$1; f=$2; shift 2
    now=$(stat -c %s "$f" 2>/dev/null) || continue
    [ "$now" -lt "$size" ] && size=0
    [ "$now" -eq "$size" ] || { echo "== $f"; tail -c "+$((size + 1))" "$f" | tail -c 65536; }
done
"""
_HEALTH = """
virsh -c qemu:///system uri >/dev/null 2>&1 || echo "libvirt does not answer"
bridges=$1; shift
for b in $bridges; do
    [ -d "/sys/class/net/$b" ] || { echo "there is no bridge $b"; continue; }
    read -r flags < "/sys/class/net/$b/flags"
    [ "$((flags & 1))" = 1 ] || echo "the bridge $b is down"
done
for d in "$@"; do [ -d "$d" ] && [ -w "$d" ] || echo "the storage $d is not there or not writable"; done
"""


class LibvirtHostProbe:
    """Looks at one host through a shell, and breaks it on request. The driver's connection is never used."""

    def __init__(self, lab: LabInventory, host: Host, shell: Shell) -> None:
        self._lab = lab
        self._host = host
        self.shell = shell
        self._places = [str(storage.path) for storage in lab.storages]
        self._bridges = [network.bridge for network in lab.networks]

    @property
    def host(self) -> str:
        return self._host.name

    def look(self, *, everything: bool = False) -> Look:
        """Everything that the other methods read from, at one moment."""
        return look(self.shell, self.host, self._places, everything=everything)

    def domains(self) -> Sequence[HostDomain]:
        return self.look().domains()

    def inventory(self) -> Inventory:
        return self.look(everything=True).inventory(self._places, self._bridges)

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
        xml = self.look().xml(uuid.lower())
        log = None if xml is None else xml.find("devices/serial/log")
        path = None if log is None else log.get("file")
        if not path or not self.exists(path):
            return b""
        return self.shell.run(["tail", "-c", str(_WINDOW), path]).stdout

    def log_mark(self) -> str:
        lines = self.shell.script(_LOG_SIZES).text.splitlines()
        return json.dumps({path: int(size) for size, path in (line.split(" ", 1) for line in lines)})

    def log_since(self, mark: str) -> str:
        sizes = json.loads(mark)
        for path in json.loads(self.log_mark()):
            sizes.setdefault(path, 0)  # the log of a VM that came after the mark
        words = [word for path, size in sizes.items() for word in (str(size), path)]
        return self.shell.script(_LOG_TAIL, *words, check=False).text[-_WINDOW:]

    def health(self) -> list[str]:
        """What is wrong with the host itself, a sentence each."""
        try:
            lines = self.shell.script(_HEALTH, " ".join(self._bridges), *self._places, timeout_s=20).text.splitlines()
        except LabError as error:
            return [f"host {self.host}: {error}"]
        return [f"host {self.host}: {line}" for line in lines]

    # faults

    def kill_vm(self, uuid: str) -> None:
        faults.end_process(self.shell, self._pid(uuid), f"VM {uuid}")

    def restart_management(self) -> None:
        faults.restart_daemon(self.shell, self.host, self._host.service)

    def cut_link_to(self, other: str) -> AbstractContextManager[None]:
        host = self._lab.host(other)
        return faults.cut(self.shell, [address for address in (host.address, host.address6) if address])

    def fill_storage(self, storage: str) -> AbstractContextManager[None]:
        return faults.fill(self.shell, str(self._lab.storage(storage).path))

    def take_away(self, path: str) -> AbstractContextManager[None]:
        return faults.taken_away(self.shell, path)

    def stop_out_of_band(self, uuid: str) -> None:
        faults.destroy(self.shell, uuid, self._pid(uuid))

    @contextmanager
    def create_canary(self, name: str) -> Iterator[HostDomain]:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ProbeFailed(f"{name!r} is no name for a canary: letters, digits, dots, dashes only")
        with faults.canary(self.shell, name, self._places[0], lambda uuid: self._find(uuid) is not None) as uuid:
            found = self._find(uuid)
            if found is None:
                raise FaultNotFired(f"the canary {name} does not run on host {self.host}")
            yield found

    def _find(self, uuid: str) -> HostDomain | None:
        return next((domain for domain in self.domains() if domain.uuid == uuid.lower() and domain.running), None)

    def _pid(self, uuid: str) -> int:
        found = self._find(uuid)
        if found is None:
            raise FaultNotFired(f"no process of VM {uuid} runs on host {self.host}")
        return found.pid
