"""Migration: live, with and without the disks, post-copy, and cold. A failure leaves the VM where it was."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from conformance.driver import LIVE, Operation, Running
from conformance.errors import HostUnreachable, HypervisorFailure, InvalidRequest, InvalidState, Unsupported
from conformance.lab.inventory import Storage
from conformance.model import Capability, MigrateOptions, PowerState
from drivers.libvirt import addresses, filters, naming, storage, xml
from drivers.libvirt.base import OFF, Base, Located, power_of
from drivers.libvirt.binding import lv
from drivers.libvirt.errors import kind_of
from drivers.libvirt.parking import Parking
from drivers.libvirt.watch import Watch


@dataclass(frozen=True, slots=True)
class Move:
    """One migration: from where to where, and which disks go along.

    `copies` are (path on the source, path on the target) of the disks whose content is sent, `records` the numbers of
    domains that the target's toolstack knew before, where that is asked.
    """

    here: Located
    host: str
    conn: Any
    options: MigrateOptions
    copies: tuple[tuple[str, str], ...]
    target_storage: Storage | None
    records: frozenset[int] = frozenset()


class Migration(Parking, Base):
    """The facet Migrate."""

    def migrate(self, vm: str, host: str, options: MigrateOptions = LIVE) -> Operation[None]:
        here = self._locate(vm, "migrate")
        if host not in self._hosts.names:
            raise InvalidRequest(f"no host {host!r}", operation="migrate", vm=vm)
        if host == here.host:
            raise InvalidRequest(f"the VM is on {host} already", operation="migrate", vm=vm, host=host)
        if options.uri_family not in (4, 6):
            raise InvalidRequest(f"no address family {options.uri_family}", operation="migrate", vm=vm)
        if options.uri_family == 6 and not self._lab.host(host).address6:
            raise Unsupported(capability="migrate.ipv6", operation="migrate", vm=vm, host=host)
        allowed = (PowerState.RUNNING, PowerState.PAUSED) if options.live else OFF
        current = self._require(here, allowed, "migrate")
        if options.postcopy and current is not PowerState.RUNNING:
            raise InvalidState(current=current, allowed=(PowerState.RUNNING,), operation="migrate", vm=vm)
        move = self._plan(here, host, options)
        watch = self._watch(move)
        can_abort = options.live and Capability.MIGRATE_ABORT in self._flavour.capabilities
        self._locks.acquire(here.vm, "migrate")

        def work() -> None:
            try:
                with self._guard("migrate", here):
                    if options.live:
                        self._live(move, watch)
                    else:
                        self._cold(move)
            finally:
                self._locks.release(here.vm)

        return Running(
            work, operation="migrate", vm=vm, progress=watch.progress, abort=watch.abort if can_abort else None
        )

    def _watch(self, move: Move) -> Watch:
        """What looks at a migration while it is under way."""
        return Watch(
            move.here.dom,
            postcopy=move.options.postcopy,
            stall_seconds=self._options.migrate.stall_seconds,
            measured=self._flavour.job_progress,
        )

    def _plan(self, here: Located, host: str, options: MigrateOptions) -> Move:
        """Decide which files go where; raises `InvalidRequest` for what cannot work."""

        def refuse(why: str) -> InvalidRequest:
            return InvalidRequest(why, operation="migrate", vm=here.vm, host=host)

        place = self._storage(options.target_storage, "migrate") if options.target_storage else None
        with self._guard("migrate", here):
            conn = self._hosts.get(host)
            tree = here.tree(inactive=True)
            owned = [xml.disk_path(item) for item in self._owned(tree, here.vm)]
            others = [xml.disk_path(item) for item in self._attached(tree)]
            if options.copy_storage and self._list_snapshots(here):
                raise InvalidState(
                    "the copy of a disk would not hold its snapshots; delete them first",
                    current="with snapshots",
                    allowed=("without snapshots",),
                    operation="migrate",
                    vm=here.vm,
                )
        for path in others if options.copy_storage else (*owned, *others):
            source = self._storage_of(path)
            if source is None or not source.shared:
                raise refuse(f"{PurePath(path).name} is not on shared storage; copy_storage moves the VM's own")
        if not options.copy_storage:
            return Move(here, host, conn, options, (), None)
        copies = []
        for path in owned:
            source = self._storage_of(path)
            goal = place or source
            if goal is None or (goal == source and goal.shared):
                raise refuse(f"{PurePath(path).name} would be copied onto itself; name another target_storage")
            copies.append((path, f"{goal.path}/{PurePath(path).name}"))
        return Move(here, host, conn, options, tuple(copies), place)

    # live

    def _live(self, move: Move, watch: Watch) -> None:
        here = move.here
        if any(item.find("filterref") is not None for item in here.tree().findall("devices/interface")):
            filters.ensure(move.conn)
        made: list[str] = []
        try:
            for path, to in move.copies:
                size = self._disk_bytes(here, path)
                storage.create_disk(move.conn, to, size, backing=storage.backing(here.conn, path))
                made.append(to)
            self._park(here)
            with watch:
                self._send(move)
        except BaseException as error:
            if not self._arrived(move):
                self._undo(
                    [
                        lambda: self._restore_parked(here),
                        lambda: self._mend_source(move),
                        lambda: self._clean_target(move, made),
                    ]
                )
                self._explain(error, watch, move)
                raise
        self._settle(move)

    def _send(self, move: Move) -> None:
        settings = self._options.migrate
        flags, params = self._migrate_flags(move), self._migrate_params(move)
        if settings.mode == "p2p":
            uri = settings.uris.get(move.host) or self._hosts.uris[move.host]
            move.here.dom.migrateToURI3(uri, params, flags | lv.VIR_MIGRATE_PEER2PEER)
        else:
            move.here.dom.migrate3(move.conn, params, flags)

    def _migrate_flags(self, move: Move) -> int:
        settings = self._options.migrate
        flags = self._flavour.flags(self._flavour.migrate_flags)
        if self._options.disk_cache in ("none", "directsync"):
            # libvirt knows shared file systems by their type; which storage is shared the lab file says, and
            # `_plan` has seen to it. What libvirt rightly insists on besides is that the host caches nothing.
            flags |= lv.VIR_MIGRATE_UNSAFE
        if settings.tls:
            flags |= lv.VIR_MIGRATE_TLS
        if move.options.postcopy:
            flags |= lv.VIR_MIGRATE_POSTCOPY
        elif settings.auto_converge:
            flags |= lv.VIR_MIGRATE_AUTO_CONVERGE
        if move.copies:
            # only the top layer: the image below is on the target too
            flags |= lv.VIR_MIGRATE_NON_SHARED_INC
        return flags

    def _migrate_address(self, move: Move) -> str:
        """The address that the target listens on; empty leaves it to libvirt."""
        target = self._lab.host(move.host)
        return target.address6 if move.options.uri_family == 6 else target.address

    def _migrate_params(self, move: Move) -> dict[str, Any]:
        here = move.here
        params: dict[str, Any] = {}
        if address := self._migrate_address(move):
            shown = f"[{address}]" if ":" in address else address
            params[lv.VIR_MIGRATE_PARAM_URI] = f"tcp://{shown}"
            # else QEMU listens where the target's qemu.conf says, which may be the other family
            params[lv.VIR_MIGRATE_PARAM_LISTEN_ADDRESS] = address
        if move.options.bandwidth_mib_s:
            params[lv.VIR_MIGRATE_PARAM_BANDWIDTH] = move.options.bandwidth_mib_s
        if move.copies:
            moved = dict(move.copies)
            params[lv.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = [
                xml.disk_dev(item) for item in xml.disks(here.tree()) if xml.disk_path(item) in moved
            ]
            params[lv.VIR_MIGRATE_PARAM_PERSIST_XML] = xml.text(_elsewhere(here.tree(inactive=True), move))
        migratable = ET.fromstring(here.dom.XMLDesc(lv.VIR_DOMAIN_XML_MIGRATABLE | lv.VIR_DOMAIN_XML_SECURE))
        if self._tell_filters(here, migratable) or move.copies:
            params[lv.VIR_MIGRATE_PARAM_DEST_XML] = xml.text(_elsewhere(migratable, move))
        return params

    def _tell_filters(self, here: Located, tree: ET.Element) -> bool:
        """Write the addresses of guarded NICs into the XML for the target; whether there was anything to write.

        Without them libvirt learns the address there anew, from what the guest says first, and until then lets nothing
        else through: a guest that is only spoken to would be deaf after its migration.
        """
        guarded = [item for item in tree.findall("devices/interface") if item.find("filterref") is not None]
        if not guarded or not self._agent_connected(here):
            return False
        known = addresses.by_mac(here.dom, lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
        for item in guarded:
            mac, filterref = item.find("mac"), item.find("filterref")
            assert mac is not None
            assert filterref is not None
            for old in filterref.findall("parameter[@name='IP']"):
                filterref.remove(old)
            for address in known.get(mac.get("address", "").lower(), ()):
                if address.version == 4:
                    xml.child(filterref, "parameter", name="IP", value=str(address))
        return True

    # cold

    def _cold(self, move: Move) -> None:
        here = move.here
        if here.active or here.dom.hasManagedSaveImage(0):
            raise InvalidState(current=power_of(here.dom), allowed=OFF, operation="migrate", vm=here.vm)
        made: list[str] = []
        try:
            for path, to in move.copies:
                made.append(to)
                storage.copy_file(here.conn, path, move.conn, to)
            self._park(here)
            if move.copies or not self._flavour.offline_migration:
                move.conn.defineXML(xml.text(_elsewhere(here.tree(inactive=True), move)))
                self._undefine(here, moved=True)
            else:
                flags = lv.VIR_MIGRATE_OFFLINE | lv.VIR_MIGRATE_PERSIST_DEST | lv.VIR_MIGRATE_UNDEFINE_SOURCE
                here.dom.migrate3(move.conn, {}, flags | lv.VIR_MIGRATE_UNSAFE)
        except BaseException:
            if self._lookup(here.host, here.vm) is not None:
                self._undo([lambda: self._restore_parked(here), lambda: self._clean_target(move, made)])
                raise
        self._settle(move)

    # afterwards

    def _arrived(self, move: Move) -> bool:
        """After an error: whether the VM runs on the target and nowhere else, so that only the report went wrong."""
        try:
            there = self._lookup(move.host, move.here.vm)
            if there is None or power_of(there.dom) not in (PowerState.RUNNING, PowerState.PAUSED):
                return False
            source = self._lookup(move.here.host, move.here.vm)
            return source is None or not source.active
        except HostUnreachable:
            return False  # nobody knows; `_clean_target` looks again before it touches anything

    def _settle(self, move: Move) -> None:
        """The VM is on the target: give its snapshots back, and take away what stayed behind."""
        vm = move.here.vm
        self._last[vm] = move.host
        there = self._lookup(move.host, vm)
        if there is None:
            raise HypervisorFailure("the VM is not on the target", operation="migrate", vm=vm, host=move.host)
        self._restore_parked(there)
        left = self._lookup(move.here.host, vm)
        if left is not None and not left.active:
            self._undefine(left, moved=True)
        for item in self._lab.storages:
            if not item.shared:
                storage.delete_prefix(move.here.conn, str(item.path), naming.vm_prefix(vm))
        old = {str(PurePath(path).parent) for path, to in move.copies if PurePath(path).parent != PurePath(to).parent}
        for directory in old:
            storage.delete_prefix(move.here.conn, directory, naming.vm_prefix(vm))
        if there.tree().find("devices/interface/filterref") is not None:
            filters.drop(move.here.conn)

    def _mend_source(self, move: Move) -> None:
        """The VM stayed on the source: have it go on there, where the hypervisor does not see to that itself."""

    def _clean_target(self, move: Move, made: list[str]) -> None:
        """The VM stayed on the source: leave nothing of it on the target."""
        source, there = self._lookup(move.here.host, move.here.vm), self._lookup(move.host, move.here.vm)
        if source is None or (move.options.live and not source.active):
            return  # whatever is on the target may be all that there is
        if there is not None:
            there.cut()
            there = self._lookup(move.host, move.here.vm)
        if there is not None:
            self._undefine(there, moved=True)
        conn = self._hosts.get(move.host)  # its daemon may have been started anew
        for path in made:
            storage.delete(conn, path)
        for item in self._lab.storages:
            if not item.shared:
                storage.delete_prefix(conn, str(item.path), naming.vm_prefix(move.here.vm))
        filters.drop(conn)

    def _explain(self, error: BaseException, watch: Watch, move: Move) -> None:
        """Say why where libvirt only says that the job was aborted."""
        if not isinstance(error, lv.libvirtError):
            return
        why = watch.why
        if kind_of(error) is HostUnreachable and move.conn.isAlive() and move.here.conn.isAlive():
            # the daemons are well: what broke is the connection between the two machines
            why = why or "the connection to the target broke"
        if why:
            raise HypervisorFailure(
                f"{why} ({error.get_error_message()})",
                operation="migrate",
                vm=move.here.vm,
                host=move.host,
                code=error.get_error_code(),
            ) from error


def _elsewhere(tree: ET.Element, move: Move) -> ET.Element:
    """A domain's XML with the disks' new paths, and the console's and the UEFI variables' beside them."""
    tree = copy.deepcopy(tree)
    moved = dict(move.copies)
    for item in xml.disks(tree):
        if (to := moved.get(xml.disk_path(item))) is not None:
            item.find("source").set("file", to)  # type: ignore[union-attr]
    if move.target_storage is not None:
        log, nvram = tree.find("devices/serial/log"), tree.find("os/nvram")
        if log is not None:
            log.set("file", f"{move.target_storage.path}/{PurePath(log.get('file', '')).name}")
        if nvram is not None and nvram.text:
            nvram.text = f"{move.target_storage.path}/{PurePath(nvram.text).name}"
    return tree
