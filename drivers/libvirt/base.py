"""What every part of the driver stands on: finding a VM, its state, running work in the background."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from conformance.driver import Driver, Operation, Running
from conformance.errors import DriverError, HostUnreachable, InvalidRequest, InvalidState, NotFound, Unsupported
from conformance.lab.inventory import LabInventory, Storage, Target
from conformance.model import PowerState, Progress
from conformance.waiting import WaitTimeout, until
from drivers.libvirt import naming, storage, xml
from drivers.libvirt.binding import lv
from drivers.libvirt.connection import Hosts
from drivers.libvirt.errors import translated
from drivers.libvirt.flavour import Flavour
from drivers.libvirt.operations import Locks
from drivers.libvirt.options import Options

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Located:
    """A domain of ours and the host that it is on."""

    vm: str
    host: str
    conn: Any
    dom: Any

    @property
    def active(self) -> bool:
        return bool(self.dom.isActive())

    def cut(self) -> None:
        """Cut the machine's power, if it has any."""
        if not self.active:
            return
        try:
            self.dom.destroy()
        except lv.libvirtError as error:
            # the guest powered off between the two calls
            if error.get_error_code() != lv.VIR_ERR_OPERATION_INVALID or self.active:
                raise

    def unsupported(self, capability: str, operation: str, why: str = "") -> Unsupported:
        """What is raised for an operation on this VM that is not offered."""
        return Unsupported(why, capability=capability, operation=operation, vm=self.vm, host=self.host)

    def has_died(self) -> bool:
        """After a question that QEMU did not answer: whether it is dead, which libvirt takes a moment to see."""
        try:
            until("libvirt to see that QEMU died", lambda: not self.active, seconds=DEATH_SECONDS)
        except WaitTimeout:
            return False
        return True

    @property
    def ending(self) -> bool:
        """Whether the guest has ended, and its machine is still being taken down or made anew for a reboot."""
        return _is_ending(self.dom, self.dom.state(0)[0])

    def tree(self, *, inactive: bool = False) -> ET.Element:
        """The domain's XML: the running machine's, or with `inactive` that of its next start."""
        flags = lv.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        return ET.fromstring(self.dom.XMLDesc(flags | lv.VIR_DOMAIN_XML_SECURE))

    @property
    def config_flags(self) -> int:
        """Where a device change has to go: to the definition, and to the machine if there is one."""
        live = lv.VIR_DOMAIN_AFFECT_LIVE if self.active else 0
        return int(lv.VIR_DOMAIN_AFFECT_CONFIG | live)


def _is_ending(dom: Any, state: int) -> bool:
    # libxl says "shut off" before it has taken the machine down, and while it makes it anew
    return bool(state == lv.VIR_DOMAIN_SHUTDOWN or (state == lv.VIR_DOMAIN_SHUTOFF and dom.isActive()))


def power_of(dom: Any) -> PowerState:
    """libvirt's state of a domain in the words of the interface."""
    state, reason = dom.state(0)
    if state == lv.VIR_DOMAIN_RUNNING or state == lv.VIR_DOMAIN_BLOCKED:
        return PowerState.RUNNING
    if state == lv.VIR_DOMAIN_PAUSED:
        passing = (
            lv.VIR_DOMAIN_PAUSED_MIGRATION,
            lv.VIR_DOMAIN_PAUSED_SAVE,
            lv.VIR_DOMAIN_PAUSED_SNAPSHOT,
            lv.VIR_DOMAIN_PAUSED_STARTING_UP,
            lv.VIR_DOMAIN_PAUSED_SHUTTING_DOWN,
            lv.VIR_DOMAIN_PAUSED_POSTCOPY,
        )
        return PowerState.TRANSIENT if reason in passing else PowerState.PAUSED
    if state == lv.VIR_DOMAIN_PMSUSPENDED or _is_ending(dom, state):
        return PowerState.TRANSIENT
    if state == lv.VIR_DOMAIN_SHUTOFF:
        if dom.hasManagedSaveImage(0):
            return PowerState.SUSPENDED
        return PowerState.CRASHED if reason == lv.VIR_DOMAIN_SHUTOFF_CRASHED else PowerState.STOPPED
    if state == lv.VIR_DOMAIN_CRASHED:
        return PowerState.CRASHED
    return PowerState.UNKNOWN


def _settled(here: Located) -> bool:
    """Whether a domain is a machine at work, and not one that a migration is still filling."""
    return here.active and power_of(here.dom) is not PowerState.TRANSIENT


DEATH_SECONDS = 3.0
"""How long libvirt may take to see that a QEMU has died."""

END_SECONDS = 30.0
"""How long a hypervisor may take to take down the machine of a guest that has ended; libxl on an emulated host needs
five."""

OFF = (PowerState.STOPPED, PowerState.CRASHED)


class Base(Driver, ABC):
    """Shared by the parts of the driver, each of which adds the methods of one facet."""

    def __init__(self, lab: LabInventory, target: Target, options: Options, hosts: Hosts, flavour: Flavour) -> None:
        self._lab = lab
        self._target = target
        self._options = options
        self._hosts = hosts
        self._flavour = flavour
        self._locks = Locks()
        self._last: dict[str, str] = {}

    # finding

    def _locate(self, vm: str, operation: str) -> Located:
        """The domain behind an id.

        Raises:
            NotFound: No host has it, or the one that has it did not get it from this driver.
            HostUnreachable: It is on none of the hosts that answer, but some do not.
        """
        try:
            id = str(uuid.UUID(vm))
        except (ValueError, AttributeError, TypeError):
            raise NotFound(f"{vm!r} is not an id of this driver", operation=operation, vm=str(vm)) from None
        silent: list[DriverError] = []
        found: list[Located] = []
        names = sorted(self._hosts.names, key=lambda name: name != self._last.get(id))
        for host in names:
            try:
                if (here := self._lookup(host, id)) is None:
                    continue
                found.append(here)
                if _settled(here):  # a definition may be left over elsewhere; a machine is not
                    break
            except HostUnreachable as error:
                silent.append(error)
        if not found:
            if silent:
                raise HostUnreachable(
                    f"not on the hosts that answer; {silent[0].message}",
                    operation=operation,
                    vm=vm,
                    host=silent[0].host,
                    code=silent[0].code,
                )
            raise NotFound("no such VM", operation=operation, vm=vm)
        best = max(found, key=_settled)
        self._last[id] = best.host
        return best

    def _lookup(self, host: str, id: str) -> Located | None:
        with translated(operation="lookup", vm=id, host=host):
            conn = self._hosts.get(host)
            try:
                dom = conn.lookupByUUIDString(id)
                return Located(id, host, conn, dom) if self._name_of(dom) is not None else None
            except lv.libvirtError as error:
                if error.get_error_code() == lv.VIR_ERR_NO_DOMAIN:
                    return None
                raise

    def _name_of(self, dom: Any) -> str | None:
        """The name in our record; None for a domain that is not ours."""
        try:
            record = ET.fromstring(dom.metadata(lv.VIR_DOMAIN_METADATA_ELEMENT, naming.METADATA_URI, 0))
        except lv.libvirtError as error:
            if error.get_error_code() in (lv.VIR_ERR_NO_DOMAIN_METADATA, lv.VIR_ERR_NO_DOMAIN):
                return None
            raise
        for element in record.iter():
            if element.tag.rpartition("}")[2] == "name":
                return element.text or ""
        return None

    def find(self, name: str) -> str:
        id = naming.vm_uuid(name)
        return self._locate(id, "find").vm

    def list(self) -> Sequence[str]:
        ids = []
        for host in self._hosts.names:
            with translated(operation="list", host=host):
                for dom in self._hosts.get(host).listAllDomains(0):
                    if self._name_of(dom) is not None:
                        ids.append(dom.UUIDString())
        return sorted(set(ids))

    # states and errors

    def _require(self, here: Located, allowed: Iterable[PowerState], operation: str) -> PowerState:
        """The VM's power state; raises `InvalidState` when it is none of `allowed`, or `Busy` when it only passes.

        Whoever comes while the machine of a guest that has just ended is still being taken down waits for that.
        """
        with self._guard(operation, here):
            current = power_of(here.dom)
            if current is PowerState.TRANSIENT and here.ending:
                self._locks.check(here.vm, operation)
                with suppress(WaitTimeout):
                    until("the machine to be taken down", lambda: not here.ending, seconds=END_SECONDS)
                current = power_of(here.dom)
        allowed = tuple(allowed)
        if current not in allowed:
            if current is PowerState.TRANSIENT:  # mostly an operation of ours, such as the stop for a snapshot
                self._locks.check(here.vm, operation)
            raise InvalidState(current=current, allowed=allowed, operation=operation, vm=here.vm, host=here.host)
        return current

    @contextmanager
    def _guard(self, operation: str, here: Located) -> Iterator[None]:
        """Turn libvirt's errors about this VM into ours."""

        def state() -> str:
            try:
                return power_of(here.dom)
            except lv.libvirtError:
                return PowerState.UNKNOWN

        with translated(operation=operation, vm=here.vm, host=here.host, state=state):
            yield

    def _agent_connected(self, here: Located) -> bool:
        return self._flavour.agent_channel and any(
            element.get("state") == "connected" and element.get("name") == "org.qemu.guest_agent.0"
            for element in here.tree().findall("devices/channel/target")
        )

    # running

    def _start(
        self,
        operation: str,
        here: Located,
        work: Callable[[], T],
        *,
        held: bool = False,
        override: bool = False,
        progress: Callable[[], Progress] | None = None,
        abort: Callable[[], None] | None = None,
    ) -> Operation[T]:
        """Do `work` in the background with the VM locked; raises `Busy` at once if it is."""
        if not held:
            self._locks.acquire(here.vm, operation, override=override)

        def run() -> T:
            try:
                with self._guard(operation, here):
                    return work()
            finally:
                self._locks.release(here.vm)

        return Running(run, operation=operation, vm=here.vm, progress=progress, abort=abort)

    def _undo(self, steps: Sequence[Callable[[], object]]) -> None:
        """Take back what was made, newest first; the error that is being raised matters more than one in here."""
        for step in reversed(steps):
            try:
                step()
            except (DriverError, lv.libvirtError):
                continue

    # what not every hypervisor behind libvirt can

    def _disk_bytes(self, here: Located, path: str) -> int:
        """Virtual size of a disk of this VM, as the machine has it if it runs."""
        if self._flavour.block_info:
            return int(here.dom.blockInfo(path)[0])
        return storage.capacity(here.conn, path)

    def _list_snapshots(self, here: Located, flags: int = 0) -> Sequence[Any]:
        """libvirt's snapshots of this VM."""
        return here.dom.listAllSnapshots(flags) if self._flavour.snapshots else ()

    def _undefine(self, here: Located, *, moved: bool = False) -> None:
        """Take a definition away with all that libvirt keeps of the VM; of one that `moved`, UEFI variables stay."""
        flags = self._flavour.flags(self._flavour.undefine_flags)
        if moved and flags & lv.VIR_DOMAIN_UNDEFINE_NVRAM:
            flags ^= lv.VIR_DOMAIN_UNDEFINE_NVRAM | lv.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        try:
            here.dom.undefineFlags(flags)
        except lv.libvirtError as error:
            if error.get_error_code() != lv.VIR_ERR_NO_DOMAIN:  # somebody else was faster
                raise

    # places

    def _storage(self, name: str, operation: str) -> Storage:
        """A storage by its lab name; empty: the first shared one, else the first."""
        if not name:
            return next((item for item in self._lab.storages if item.shared), self._lab.storages[0])
        for item in self._lab.storages:
            if item.name == name:
                return item
        raise InvalidRequest(f"no storage {name!r}", operation=operation)

    def _storage_of(self, path: str) -> Storage | None:
        """The storage that a file lies in."""
        parent = PurePath(path).parent
        return next((item for item in self._lab.storages if PurePath(item.path) == parent), None)

    def _network_of(self, bridge: str) -> str:
        """The lab name of the network on a bridge, or the bridge's own."""
        return next((item.name for item in self._lab.networks if item.bridge == bridge), bridge)

    def _owned(self, root: ET.Element, vm: str) -> Sequence[ET.Element]:
        """The disks that were made with the VM; the others are volumes."""
        prefix = naming.vm_prefix(vm)
        return [item for item in xml.disks(root) if PurePath(xml.disk_path(item)).name.startswith(prefix)]

    def _attached(self, root: ET.Element) -> Sequence[ET.Element]:
        """The disks that are volumes with a life of their own."""
        return [item for item in xml.disks(root) if naming.parse_volume_file(xml.disk_path(item)) is not None]
