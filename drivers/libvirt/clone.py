"""Clones: full copies of a stopped VM, with an identity of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath

from conformance.driver import Operation, Running
from conformance.errors import InvalidRequest
from drivers.libvirt import naming, storage, xml
from drivers.libvirt.base import OFF, Located
from drivers.libvirt.create import Create
from drivers.libvirt.errors import translated
from drivers.libvirt.parking import PARKED_URI


class CloneVm(Create):
    """The facet Clone. Volumes that are attached to the source stay its own."""

    def clone(self, vm: str, name: str, macs: Sequence[str]) -> Operation[str]:
        here = self._locate(vm, "clone")
        naming.check_name(name, "clone")
        for mac in macs:
            naming.check_mac(mac, "clone")
        self._require(here, OFF, "clone")
        id = naming.vm_uuid(name)
        with translated(operation="clone", vm=name, host=here.host):
            self._check_free(name, id, here.conn)
            nics = len(here.tree(inactive=True).findall("devices/interface"))
        if len(macs) != nics or len(set(macs)) != nics:
            raise InvalidRequest(f"{len(macs)} MACs for {nics} NICs", operation="clone", vm=vm)
        self._locks.acquire(here.vm, "clone")
        try:
            self._locks.acquire(id, "clone")
        except BaseException:
            self._locks.release(here.vm)
            raise

        def work() -> str:
            try:
                with translated(operation="clone", vm=name, host=here.host):
                    self._copy(here, id, name, macs)
                self._last[id] = here.host
                return id
            finally:
                self._locks.release(id)
                self._locks.release(here.vm)

        return Running(work, operation="clone", vm=id)

    def _copy(self, here: Located, id: str, name: str, macs: Sequence[str]) -> None:
        tree = here.tree(inactive=True)
        devices = tree.find("devices")
        record = tree.find(f"metadata/{{{naming.METADATA_URI}}}vm/{{{naming.METADATA_URI}}}name")
        named, title, identity = tree.find("name"), tree.find("title"), tree.find("uuid")
        assert devices is not None
        assert record is not None
        assert named is not None
        assert title is not None
        assert identity is not None
        record.text = title.text = name
        named.text = naming.libvirt_name(name)
        identity.text = id
        for item in tree.findall(f"metadata/{{{PARKED_URI}}}parked"):
            tree.find("metadata").remove(item)  # type: ignore[union-attr]
        for item in self._attached(tree):
            devices.remove(item)
        for item, mac in zip(tree.findall("devices/interface/mac"), macs, strict=True):
            item.set("address", mac)
        undo: list[Callable[[], object]] = []
        try:
            for item in self._owned(tree, here.vm):
                path = xml.disk_path(item)
                to = str(PurePath(path).with_name(naming.disk_file(id, item.findtext("serial", ""))))
                source = storage.volume(here.conn, path)
                storage.create_disk(here.conn, to, source.info()[1], template=source)
                undo.append(lambda to=to: storage.delete(here.conn, to))  # type: ignore[misc]
                item.find("source").set("file", to)  # type: ignore[union-attr]
            log = tree.find("devices/serial/log")
            if log is not None:
                log.set("file", str(PurePath(log.get("file", "")).with_name(naming.console_file(id))))
            nvram = tree.find("os/nvram")
            if nvram is not None and nvram.text:
                to = str(PurePath(nvram.text).with_name(naming.nvram_file(id)))
                if PurePath(nvram.text).name in storage.names(here.conn, str(PurePath(nvram.text).parent)):
                    storage.copy_file(here.conn, nvram.text, here.conn, to)
                    undo.append(lambda: storage.delete(here.conn, to))
                nvram.text = to
            here.conn.defineXML(xml.text(tree))
        except BaseException:
            self._undo(undo)
            raise
