"""The probe of a Hyper-V host: WMI and files over a WinRM session of its own, never the driver's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from conformance.errors import FaultNotFired, LabError
from conformance.lab.inventory import Host, LabInventory
from conformance.observers.host import HostDomain, Inventory
from labs.hyperv_hosts import faults
from labs.hyperv_hosts.look import Look, Vm, look
from labs.hyperv_hosts.session import Refused, Session

_WINDOW = 65536
_LOG = {"LogName": "Microsoft-Windows-Hyper-V-VMMS-Admin"}
_EVENTS = 300


class HypervHostProbe:
    """Looks at one host, and breaks it on request. See `conformance.observers.host.HostProbe`."""

    def __init__(self, lab: LabInventory, host: Host, session: Session) -> None:
        self._lab = lab
        self._host = host
        self._session = session
        self._folders = [str(storage.path) for storage in lab.storages]

    @property
    def host(self) -> str:
        return self._host.name

    def look(self, *, everything: bool = False) -> Look:
        """Everything that the other methods read from, at one moment."""
        return look(self._session, self.host, self._folders if everything else ())

    def domains(self) -> Sequence[HostDomain]:
        return self.look().domains()

    def inventory(self) -> Inventory:
        return self.look(everything=True).inventory()

    def disk_size(self, path: str) -> int:
        (row,) = self._session.ask(("Get-VHD", {"Path": path}), select=("Size",))
        return int(row["Size"])

    def file_hash(self, path: str) -> str:
        (row,) = self._session.ask(("Get-FileHash", {"LiteralPath": path, "Algorithm": "SHA256"}), select=("Hash",))
        return str(row["Hash"]).lower()

    def exists(self, path: str) -> bool:
        try:
            return bool(self._session.ask(("Get-Item", {"LiteralPath": path, "Force": True}), select=("FullName",)))
        except Refused as error:
            if error.code.startswith("PathNotFound"):
                return False
            raise

    def console_tail(self, uuid: str) -> bytes:  # noqa: ARG002 - nobody keeps what a pipe brought
        return b""

    def log_mark(self) -> str:
        rows = self._session.ask(("Get-WinEvent", {**_LOG, "MaxEvents": 1}), select=("RecordId",))
        return str(rows[0]["RecordId"]) if rows else "0"

    def log_since(self, mark: str) -> str:
        rows = self._session.ask(("Get-WinEvent", {**_LOG, "MaxEvents": _EVENTS}), select=("RecordId", "Message"))
        lines = [str(row["Message"]) for row in reversed(rows) if int(row["RecordId"]) > int(mark)]
        return "\n".join(lines)[-_WINDOW:]

    def health(self) -> list[str]:
        """What is wrong with the host itself, a sentence each."""
        try:
            (row,) = self._session.ask(("Get-Service", {"Name": "vmms"}), select=("Name", "Status"))
        except LabError as error:
            return [f"host {self.host}: {error}"]
        # ServiceControllerStatus.Running is 4 where an enumeration is written as its number
        return [] if str(row["Status"]) in ("Running", "4") else [f"host {self.host}: vmms is {row['Status']}"]

    # faults

    def kill_vm(self, uuid: str) -> None:
        vm = self._vm(uuid)
        faults.end_process(self._session, vm.pid, f"VM {uuid}")

    def restart_management(self) -> None:
        faults.restart_vmms(self._session, self.host)

    def cut_link_to(self, other: str) -> AbstractContextManager[None]:
        found = self._lab.host(other)
        return faults.cut(self._session, [each for each in (found.address, found.address6) if each])

    def fill_storage(self, storage: str) -> AbstractContextManager[None]:
        return faults.fill(self._session, str(self._lab.storage(storage).path))

    def take_away(self, path: str) -> AbstractContextManager[None]:
        return faults.taken_away(self._session, path)

    def stop_out_of_band(self, uuid: str) -> None:
        vm = self._vm(uuid)
        self._session.ask(("Get-VM", {"Id": vm.id}), ("Stop-VM", {"TurnOff": True, "Force": True}))
        if any(domain.uuid == uuid.lower() and domain.running for domain in self.domains()):
            raise FaultNotFired(f"VM {uuid} was stopped on {self.host} and runs")

    @contextmanager
    def create_canary(self, name: str) -> Iterator[HostDomain]:
        with faults.canary(self._session, name, self._folders[-1]) as id:
            found = next((domain for domain in self.domains() if domain.name == name and domain.running), None)
            if found is None:
                raise FaultNotFired(f"the canary {name} ({id}) does not run on host {self.host}")
            yield found

    def _vm(self, uuid: str) -> Vm:
        """The VM with a process whose guest shows this UUID; also one that a migration is bringing."""
        for vm in self.look().vms.values():
            if vm.uuid == uuid.lower() and vm.pid:
                return vm
        raise FaultNotFired(f"no process of VM {uuid} runs on host {self.host}")

    def close(self) -> None:
        self._session.close()
