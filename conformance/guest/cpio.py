"""A cpio archive (newc) with fixed times, owners and inode numbers, the same bytes for the same content."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass(slots=True)
class Archive:
    """Entries in the order in which they are added; a folder comes before what is in it."""

    _parts: list[bytes] = field(default_factory=list)
    _count: int = 0

    def folder(self, path: str) -> None:
        self._add(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._add(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device."""
        self._add(path, stat.S_IFCHR | 0o600, b"", major, minor)

    def build(self) -> bytes:
        """The archive, ended and padded to a multiple of 512 bytes."""
        end = self._entry("TRAILER!!!", 0, b"", 0, 0, 0)
        whole = b"".join([*self._parts, end])
        return whole + bytes(-len(whole) % 512)

    def _add(self, path: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        self._count += 1
        self._parts.append(self._entry(path, mode, data, self._count, major, minor))

    @staticmethod
    def _entry(path: str, mode: int, data: bytes, inode: int, major: int, minor: int) -> bytes:
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % number for number in fields) + name
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
