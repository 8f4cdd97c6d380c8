"""Snapshots inside the qcow2 files: every one stands alone, so any can be reverted to or deleted, in any order.

Of a running VM libvirt can only take such a snapshot with its RAM. One without memory therefore holds RAM as well, and
reverting to it boots afresh; what its promise says is kept: all disks of one instant, the guest stopped for no longer.
External snapshots would need no RAM, but libvirt 9.0 cannot revert to them.
"""

from __future__ import annotations

import secrets
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from conformance.driver import Operation
from conformance.errors import Exists, InvalidRequest, InvalidState, NotFound
from conformance.model import PowerState, SnapshotState
from drivers.libvirt import naming, xml
from drivers.libvirt.base import OFF, Located, power_of
from drivers.libvirt.binding import lv
from drivers.libvirt.parking import Parking
from drivers.libvirt.power import Power
from drivers.libvirt.volumes import VolumeStore

_MEMORY, _DISK = "m-", "d-"
# a snapshot's id in libvirt; names go into the description, since QEMU takes a name of digits for an index


class SnapshotTree(Power, Parking, VolumeStore):
    """The facet Snapshots."""

    def snapshot(
        self, vm: str, name: str, *, memory: bool = False, quiesce: bool = False, exclude: Sequence[str] = ()
    ) -> Operation[str]:
        here = self._locate(vm, "snapshot")
        if exclude:
            # QEMU's savevm takes every writable disk
            raise here.unsupported("snapshot.exclude-disk", "snapshot")
        with self._guard("snapshot", here):
            if here.tree(inactive=True).find("os/nvram") is not None:
                why = "libvirt takes no internal snapshot of a VM with UEFI variables"
                raise here.unsupported("snapshot.disk", "snapshot", why)
        if memory and quiesce:
            raise InvalidRequest("a snapshot with memory has no need to quiesce", operation="snapshot", vm=vm)
        running = (PowerState.RUNNING,) if quiesce else (PowerState.RUNNING, PowerState.PAUSED)
        self._require(here, running if memory or quiesce else (*running, *OFF), "snapshot")

        def work() -> str:
            self._restore_parked(here)
            if any(self._snapshot_name(item) == name for item in self._list_snapshots(here)):
                raise Exists(f"there is a snapshot {name!r}", operation="snapshot", vm=vm, host=here.host)
            id = (_MEMORY if memory else _DISK) + secrets.token_hex(6)
            root = ET.Element("domainsnapshot")
            xml.child(root, "name", id)
            xml.child(root, "description", name)
            if quiesce:
                self._take_quiesced(here, xml.text(root))
            else:
                here.dom.snapshotCreateXML(xml.text(root), 0)
            return id

        return self._start("snapshot", here, work)

    def _take_quiesced(self, here: Located, description: str) -> None:
        try:
            here.dom.fsFreeze(None, 0)
            here.dom.snapshotCreateXML(description, 0)
        except lv.libvirtError as error:
            if error.get_error_code() in (lv.VIR_ERR_AGENT_UNRESPONSIVE, lv.VIR_ERR_ARGUMENT_UNSUPPORTED):
                raise InvalidState(
                    f"the guest cannot be quiesced: {error.get_error_message()}",
                    current="running without a guest agent",
                    allowed=("running with a guest agent",),
                    operation="snapshot",
                    vm=here.vm,
                    host=here.host,
                    code=error.get_error_code(),
                ) from error
            raise
        finally:
            self._thaw(here)

    def _thaw(self, here: Located) -> None:
        """Let the guest write again, whether or not the freeze was reported to have worked."""
        try:
            here.dom.fsThaw(None, 0)
        except lv.libvirtError as error:
            # an agent that does not answer now froze nothing that could be thawed
            if error.get_error_code() not in (lv.VIR_ERR_AGENT_UNRESPONSIVE, lv.VIR_ERR_ARGUMENT_UNSUPPORTED):
                raise

    def snapshots(self, vm: str) -> Sequence[SnapshotState]:
        here = self._locate(vm, "snapshots")
        with self._guard("snapshots", here):
            self._restore_parked(here)
            found = self._list_snapshots(here, lv.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
            return tuple(
                SnapshotState(
                    id=item.getName(),
                    name=self._snapshot_name(item),
                    parent=_parent(item),
                    memory=item.getName().startswith(_MEMORY),
                )
                for item in found
            )

    def revert(self, vm: str, snapshot: str) -> Operation[None]:
        here = self._locate(vm, "revert")
        before = self._require(here, (PowerState.RUNNING, PowerState.PAUSED, *OFF), "revert")
        item = self._snapshot(here, snapshot, "revert")
        with self._guard("revert", here):
            root = ET.fromstring(item.getXMLDesc(0))
        self._check_volumes(here, root)

        def work() -> None:
            if root.findtext("state") == "shutoff":
                here.dom.revertToSnapshot(item, 0)
            elif snapshot.startswith(_MEMORY):
                here.dom.revertToSnapshot(item, lv.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE)
                if power_of(here.dom) is PowerState.RUNNING:
                    self._set_clock(here)
                return
            else:
                flags = lv.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE | lv.VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED
                here.dom.revertToSnapshot(item, flags)
                here.dom.destroy()
            if before is PowerState.PAUSED:
                here.dom.createWithFlags(lv.VIR_DOMAIN_START_PAUSED)
            elif before is PowerState.RUNNING:
                self._power_on(here)

        return self._start("revert", here, work)

    def delete_snapshot(self, vm: str, snapshot: str) -> Operation[None]:
        here = self._locate(vm, "delete_snapshot")
        self._require(here, (PowerState.RUNNING, PowerState.PAUSED, *OFF), "delete_snapshot")
        item = self._snapshot(here, snapshot, "delete_snapshot")

        def work() -> None:
            item.delete(0)

        return self._start("delete_snapshot", here, work)

    def _snapshot(self, here: Located, id: str, operation: str) -> Any:
        with self._guard(operation, here):
            self._restore_parked(here)
            try:
                return here.dom.snapshotLookupByName(id, 0)
            except lv.libvirtError as error:
                if error.get_error_code() != lv.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                    raise
        raise NotFound(f"no snapshot {id!r}", operation=operation, vm=here.vm, host=here.host)

    def _snapshot_name(self, item: Any) -> str:
        return ET.fromstring(item.getXMLDesc(0)).findtext("description", "")

    def _check_volumes(self, here: Located, root: ET.Element) -> None:
        """A volume that was attached at the snapshot comes back with it, so nobody else may have it by now."""
        domain = root.find("domain")
        for item in [] if domain is None else self._attached(domain):
            path = xml.disk_path(item)
            found = naming.parse_volume_file(path)
            assert found is not None
            self._free_volume(found[0], "revert", here.vm)


def _parent(item: Any) -> str | None:
    try:
        return str(item.getParent(0).getName())
    except lv.libvirtError as error:
        if error.get_error_code() == lv.VIR_ERR_NO_DOMAIN_SNAPSHOT:
            return None
        raise
