"""Snapshots of a VM that moves: libvirt moves none, but their content is in the disks and moves with them.

Their descriptions go into the domain's metadata, which migrates, and are given back to libvirt where the VM is then.
Should this process die in between, whoever looks at the VM's snapshots next gives them back.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from drivers.libvirt import xml
from drivers.libvirt.base import Base, Located
from drivers.libvirt.binding import lv

PARKED_URI = "urn:hvconform:libvirt:snapshots:1"


class Parking(Base):
    """Takes snapshots' descriptions away from libvirt and gives them back."""

    def _snapshot_ids(self, here: Located) -> Sequence[str]:
        names = [item.getName() for item in self._list_snapshots(here)]
        return names or [item.findtext("name", "") for item in self._parked(here)]

    def _park(self, here: Located) -> None:
        """Note all snapshots in the domain's metadata, then have libvirt forget them; their content stays."""
        found = self._list_snapshots(here, lv.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
        if not found:
            return
        # libvirt puts the namespace on the outermost element itself, and fails when it finds it there
        root = ET.Element("parked")
        for item in found:
            element = ET.fromstring(item.getXMLDesc(lv.VIR_DOMAIN_SNAPSHOT_XML_SECURE))
            if item.isCurrent(0):
                root.set("current", item.getName())
            root.append(element)
        self._set_parked(here, xml.text(root))
        for item in reversed(found):
            item.delete(lv.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)

    def _restore_parked(self, here: Located) -> None:
        """Give parked snapshots back to libvirt, parents first, as they were noted."""
        parked = self._parked(here)
        if not len(parked):
            return
        there = set(here.dom.snapshotListNames(0))
        for item in parked:
            name = item.findtext("name", "")
            if name not in there:
                current = lv.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT if name == parked.get("current") else 0
                here.dom.snapshotCreateXML(xml.text(item), lv.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | current)
        self._set_parked(here, None)

    def _parked(self, here: Located) -> ET.Element:
        try:
            return ET.fromstring(here.dom.metadata(lv.VIR_DOMAIN_METADATA_ELEMENT, PARKED_URI, 0))
        except lv.libvirtError as error:
            if error.get_error_code() == lv.VIR_ERR_NO_DOMAIN_METADATA:
                return ET.Element("none")
            raise

    def _set_parked(self, here: Located, content: str | None) -> None:
        key = "hvconform-snapshots" if content else None
        here.dom.setMetadata(lv.VIR_DOMAIN_METADATA_ELEMENT, content, key, PARKED_URI, here.config_flags)
