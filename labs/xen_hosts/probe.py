"""The probe of a host that runs Xen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from conformance.errors import FaultNotFired
from conformance.observers.host import HostDomain, Inventory
from labs.hosts.probe import Console, ShellHostProbe
from labs.xen_hosts import faults
from labs.xen_hosts.look import Look, Running, look

# an HVM guest has an emulated serial port; what a PV or PVH guest has is the hypervisor's console
_TERMINAL = 'xenstore-read "/local/domain/$1/serial/0/tty" 2>/dev/null || xenstore-read "/local/domain/$1/console/tty"'
_LOGS = "/var/log/xen/console"


class XenHostProbe(ShellHostProbe):
    """Looks at the hypervisor's domains, xenstore and dom0; libvirtd is not asked."""

    logs: ClassVar[Sequence[str]] = (
        "/var/log/libvirt/libvirtd.log",
        "/var/log/libvirt/libxl/*.log",
        "/var/log/xen/*.log",
    )
    daemons: ClassVar[Sequence[str]] = ("libvirtd", "virtxend")
    answers: ClassVar[Sequence[str]] = ("virsh", "-c", "xen:///system", "uri")
    patience_s: ClassVar[float] = 60.0  # it may be emulated

    def look(self, *, everything: bool = False) -> Look:
        """Everything that the other methods read from, at one moment."""
        return look(self.shell, self.host, self._places, everything=everything)

    def domains(self) -> Sequence[HostDomain]:
        return self.look().domains()

    def inventory(self) -> Inventory:
        return self.look(everything=True).inventory(self._places, self._bridges)

    def console(self, uuid: str) -> Console | None:
        domain = self.look().domain(uuid)
        if domain is None or not domain.alive:
            return None
        path = self.shell.script(_TERMINAL, str(domain.id), check=False).text.strip()
        return Console(path, "p" in domain.state) if path.startswith("/dev/") else None

    def console_log(self, uuid: str) -> str:
        names = [domain.name for domain in self.domains() if domain.uuid == uuid]
        return f"{_LOGS}/guest-{names[0]}.log" if names else ""

    # faults

    def kill_vm(self, uuid: str) -> None:
        # what runs a Xen guest is the hypervisor: there is no process to kill, and without its device model a guest
        # lives on. What dies as suddenly is a guest that crashes; `xl destroy` takes seconds and stops it first
        domain = self._alive(uuid)
        what = f"VM {uuid}"
        if "p" in domain.state and domain.seconds == 0:
            # it has not run yet, as the receiving half of a migration: whoever makes it would not notice a crash
            faults.destroy(self.shell, domain.id, what, lambda: self._has(domain.id))
        else:
            faults.crash(self.shell, domain.id, what, lambda: self._lives(domain.id))

    def stop_out_of_band(self, uuid: str) -> None:
        domain = self._alive(uuid)
        faults.destroy(self.shell, domain.id, f"VM {uuid}", lambda: self._has(domain.id))

    def canary(self, name: str) -> AbstractContextManager[str]:
        kernels = [str(image.kernel) for image in self._lab.images if image.kernel is not None]
        kernel = kernels[0] if kernels else ""
        return faults.canary(self.shell, name, self._places[0], kernel, lambda uuid: self.find(uuid) is not None)

    def _alive(self, uuid: str) -> Running:
        domain = self.look().domain(uuid.lower())
        if domain is None or not domain.alive:
            raise FaultNotFired(f"no domain of VM {uuid} runs on host {self.host}")
        return domain

    def _lives(self, number: int) -> bool:
        return any(domain.id == number and domain.alive for domain in self.look().running)

    def _has(self, number: int) -> bool:
        # one whose memory a migration has mapped stays on the list, dying, until the migration lets go of it
        return any(domain.id == number and "d" not in domain.state for domain in self.look().running)
