"""The probe of a host that runs libvirt with QEMU."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from conformance.errors import FaultNotFired
from conformance.observers.host import HostDomain, Inventory
from labs.hosts.faults import end_process
from labs.hosts.probe import Console, ShellHostProbe
from labs.libvirt_hosts import faults
from labs.libvirt_hosts.look import Look, look


class LibvirtHostProbe(ShellHostProbe):
    """Looks at QEMU's processes and libvirt's files; libvirtd is not asked."""

    logs: ClassVar[Sequence[str]] = (
        "/var/log/libvirt/libvirtd.log",
        "/var/log/libvirt/virtqemud.log",
        "/var/log/libvirt/qemu/*.log",
    )
    daemons: ClassVar[Sequence[str]] = ("libvirtd", "virtqemud")
    answers: ClassVar[Sequence[str]] = (*faults.VIRSH, "uri")

    def look(self, *, everything: bool = False) -> Look:
        """Everything that the other methods read from, at one moment."""
        return look(self.shell, self.host, self._places, everything=everything)

    def domains(self) -> Sequence[HostDomain]:
        return self.look().domains()

    def inventory(self) -> Inventory:
        return self.look(everything=True).inventory(self._places, self._bridges)

    def console(self, uuid: str) -> Console | None:
        seen = self.look()
        process, xml = seen.process(uuid), seen.live.get(uuid)
        source = None if xml is None else xml.find("devices/serial[@type='pty']/source")
        path = None if source is None else source.get("path")
        if process is None or not path:
            return None
        return Console(path, uuid in seen.paused)

    def console_log(self, uuid: str) -> str:
        xml = self.look().xml(uuid)
        log = None if xml is None else xml.find("devices/serial/log")
        return ("" if log is None else log.get("file")) or ""

    # faults

    def kill_vm(self, uuid: str) -> None:
        end_process(self.shell, self._pid(uuid), f"VM {uuid}")

    def stop_out_of_band(self, uuid: str) -> None:
        faults.destroy(self.shell, uuid, self._pid(uuid))

    def canary(self, name: str) -> AbstractContextManager[str]:
        return faults.canary(self.shell, name, self._places[0], lambda uuid: self.find(uuid) is not None)

    def _pid(self, uuid: str) -> int:
        found = self.find(uuid)
        if found is None:
            raise FaultNotFired(f"no process of VM {uuid} runs on host {self.host}")
        return found.pid
