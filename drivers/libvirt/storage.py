"""Files on the hosts' storages, through libvirt's storage API only: the hosts may be anywhere.

A storage of the lab becomes a transient pool of its directory (or whatever active pool has that directory already).
Such a pool is a note in the daemon's memory; making it or losing it touches no file.
"""

from __future__ import annotations

import hashlib
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from conformance.errors import InvalidRequest
from conformance.lab.inventory import Image
from conformance.waiting import until
from drivers.libvirt import xml
from drivers.libvirt.binding import lv

_CHUNK = 1 << 18

_checked: set[tuple[str, str, str, str]] = set()
_checking = threading.Lock()


def pool(conn: Any, directory: str) -> Any:
    """The active pool of a directory of the host, made if there is none."""
    try:
        return conn.storagePoolLookupByTargetPath(directory)
    except lv.libvirtError as error:
        if error.get_error_code() != lv.VIR_ERR_NO_STORAGE_POOL:
            raise
    root = ET.Element("pool", {"type": "dir"})
    xml.child(root, "name", "hvconform-" + hashlib.sha256(directory.encode()).hexdigest()[:12])
    xml.child(xml.child(root, "target"), "path", directory)
    try:
        return conn.storagePoolCreateXML(xml.text(root), 0)
    except lv.libvirtError:
        # another process may have been faster; if not, the lookup says what is wrong now
        try:
            return conn.storagePoolLookupByTargetPath(directory)
        except lv.libvirtError:
            pass
        raise


def refresh(found: Any) -> None:
    """Have a pool look at its directory again; it knows only of files that it made itself."""

    def attempt() -> bool:
        try:
            found.refresh(0)
        except lv.libvirtError as error:
            # refused while another thread copies a volume in this pool; that ends by itself
            if error.get_error_code() != lv.VIR_ERR_INTERNAL_ERROR:
                raise
            return False
        return True

    until("the pool's other jobs to end", attempt, seconds=60)


def volume(conn: Any, path: str) -> Any:
    """The storage volume of a file; raises libvirt's error where there is none."""
    found = pool(conn, str(PurePath(path).parent))
    name = PurePath(path).name
    try:
        return found.storageVolLookupByName(name)
    except lv.libvirtError as error:
        if error.get_error_code() != lv.VIR_ERR_NO_STORAGE_VOL:
            raise
    refresh(found)
    return found.storageVolLookupByName(name)


def names(conn: Any, directory: str) -> list[str]:
    """The names of all files in a directory."""
    found = pool(conn, directory)
    refresh(found)
    return sorted(found.listVolumes())


def create_disk(
    conn: Any, path: str, size_bytes: int, *, backing: tuple[str, str] | None = None, template: Any = None
) -> None:
    """Make a qcow2 file.

    Args:
        size_bytes: Virtual size, a multiple of 512.
        backing: Path and format of the file that it lies on; the format is stated, never probed.
        template: A storage volume whose content is copied into it, flat and without its snapshots.
    """
    root = ET.Element("volume")
    xml.child(root, "name", PurePath(path).name)
    # libvirt hands qemu-img whole KiB, rounded up; what is missing is added below
    xml.child(root, "capacity", str(size_bytes // 1024 * 1024), unit="bytes")
    goal = xml.child(root, "target")
    xml.child(goal, "format", type="qcow2")
    xml.child(goal, "compat", "1.1")
    if backing is not None:
        below = xml.child(root, "backingStore")
        xml.child(below, "path", backing[0])
        xml.child(below, "format", type=backing[1])
    found = pool(conn, str(PurePath(path).parent))
    text = xml.text(root)
    made = found.createXML(text, 0) if template is None else found.createXMLFrom(text, template, 0)
    if size_bytes % 1024:
        try:
            made.resize(size_bytes, 0)
        except lv.libvirtError:
            made.delete(0)
            raise


def resize(conn: Any, path: str, size_bytes: int) -> None:
    """Grow a qcow2 file that no VM uses."""
    volume(conn, path).resize(size_bytes, 0)


def delete(conn: Any, path: str) -> None:
    """Delete a file; one that is gone already is fine."""
    _gone_is_fine(lambda: volume(conn, path).delete(0))


def delete_prefix(conn: Any, directory: str, prefix: str) -> None:
    """Delete all files whose names start with `prefix`."""
    found = pool(conn, directory)
    refresh(found)
    for name in found.listVolumes():
        if name.startswith(prefix):
            _gone_is_fine(lambda name=name: found.storageVolLookupByName(name).delete(0))  # type: ignore[misc]


def _gone_is_fine(work: Callable[[], object]) -> None:
    try:
        work()
    except lv.libvirtError as error:
        if error.get_error_code() != lv.VIR_ERR_NO_STORAGE_VOL:
            raise


def capacity(conn: Any, path: str) -> int:
    """Virtual size in bytes, read anew from the file."""
    return int(volume(conn, path).info()[1])


def backing(conn: Any, path: str) -> tuple[str, str] | None:
    """Path and format of the file below a qcow2 file, as its header states them."""
    root = ET.fromstring(volume(conn, path).XMLDesc(0))
    below, kind = root.findtext("backingStore/path"), root.find("backingStore/format")
    return None if not below else (below, "raw" if kind is None else kind.get("type", "raw"))


def read(conn: Any, path: str, *, last: int = 0) -> bytes:
    """A file's bytes: all, or the `last` so many."""
    return b"".join(_chunks(conn, path, last))


def _chunks(conn: Any, path: str, last: int = 0) -> Iterator[bytes]:
    found = volume(conn, path)
    length = found.infoFlags(lv.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
    stream = conn.newStream(0)
    found.download(stream, max(0, length - last) if last else 0, 0, 0)
    try:
        while chunk := stream.recv(_CHUNK):
            yield chunk
        stream.finish()
    except BaseException:
        stream.abort()
        raise


def copy_file(source: Any, path: str, target: Any, to: str) -> None:
    """Copy a file, byte for byte, from one host's storage to another's, by way of this process."""
    length = volume(source, path).infoFlags(lv.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
    root = ET.Element("volume")
    xml.child(root, "name", PurePath(to).name)
    xml.child(root, "capacity", str(length), unit="bytes")
    xml.child(root, "allocation", "0", unit="bytes")
    xml.child(xml.child(root, "target"), "format", type="raw")
    found = pool(target, str(PurePath(to).parent))
    made = found.createXML(xml.text(root), 0)
    stream = target.newStream(0)
    made.upload(stream, 0, length, 0)
    try:
        for chunk in _chunks(source, path):
            sent = 0
            while sent < len(chunk):
                sent += stream.send(chunk[sent:])
        stream.finish()
    except BaseException:
        stream.abort()
        raise
    refresh(found)


def check_image(conn: Any, host: str, image: Image) -> None:
    """See that a host's copy of an image is the one in the lab file; each process reads each copy once.

    Raises:
        InvalidRequest: It is missing, damaged, of another format or size, or lies on another file.
    """

    def refuse(why: str) -> InvalidRequest:
        return InvalidRequest(f"image {image.name} ({image.path}) {why}", operation="create", host=host)

    if image.format not in ("qcow2", "raw"):
        raise refuse(f"is {image.format}; this driver boots qcow2 and raw")
    try:
        found = volume(conn, str(image.path))
        root = ET.fromstring(found.XMLDesc(0))
    except lv.libvirtError as error:
        raise refuse(f"cannot be read: {error.get_error_message()}") from error
    key = (host, str(image.path), image.sha256, root.findtext("target/timestamps/mtime", ""))
    with _checking:
        if key in _checked:
            return
    kind = root.find("target/format")
    if image.format == "qcow2":
        if kind is None or kind.get("type") != "qcow2":
            raise refuse("has no qcow2 header")
        if root.find("backingStore/path") is not None:
            raise refuse("lies on another file, which a guest image must not")
        size = found.info()[1]
    else:
        # whatever its first bytes look like, a raw image is as long as its file
        size = found.infoFlags(lv.VIR_STORAGE_VOL_GET_PHYSICAL)[2]
    if size != image.size_bytes:
        raise refuse(f"holds a disk of {size} bytes; the lab file says {image.size_bytes}")
    digest = hashlib.sha256()
    for chunk in _chunks(conn, str(image.path)):
        digest.update(chunk)
    if digest.hexdigest() != image.sha256:
        raise refuse("is damaged: its SHA-256 is not the one in the lab file")
    with _checking:
        _checked.add(key)
