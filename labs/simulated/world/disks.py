"""Files on hosts: disk layers that really hold bytes, sparse and copy-on-write, and plain files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from labs.simulated.world.errors import HypervisorError

BLOCK = 4096
_ZERO = bytes(BLOCK)
QCOW2_MAGIC = b"QFI\xfb"


class Space:
    """The free space of one storage on one host; `full` means that not one more block fits."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.full = False

    def claim(self) -> None:
        """Raises `HypervisorError` ``no-space`` when nothing is left."""
        if self.full:
            raise HypervisorError("no-space", f"no space left on {self.name}")


class File:
    """Something at a path."""

    def content(self) -> Iterator[bytes]:
        """The file's own bytes, in pieces."""
        raise NotImplementedError

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.content():
            digest.update(piece)
        return digest.hexdigest()


class PlainFile(File):
    """A file that is nothing but its bytes: a log, a memory image, NVRAM."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def content(self) -> Iterator[bytes]:
        yield self.data


class Layer(File):
    """A disk image file: allocated blocks over an optional backing layer.

    Args:
        size_bytes: Virtual size.
        format: ``"raw"`` or ``"qcow2"``; a raw layer has no backing.
        backing: What shows through where nothing is allocated.
        space: The storage's free space; None for a file nobody writes to.
    """

    def __init__(
        self, size_bytes: int, format: str = "qcow2", backing: Layer | None = None, space: Space | None = None
    ) -> None:
        self.size_bytes = size_bytes
        self.format = format
        self.backing = backing
        self.space = space
        self.blocks: dict[int, bytes] = {}
        self.valid = True
        self.identifier = ""
        """What the format itself says which disk this is, for formats that do."""

    def read_block(self, index: int) -> bytes:
        layer: Layer | None = self
        while layer is not None:
            if (block := layer.blocks.get(index)) is not None:
                return block
            layer = layer.backing
            if layer is not None and index * BLOCK >= layer.size_bytes:
                return _ZERO
        return _ZERO

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of a range of whole blocks inside the disk."""
        self._check(offset, length)
        return b"".join(self.read_block(index) for index in range(offset // BLOCK, (offset + length) // BLOCK))

    def write(self, offset: int, data: bytes) -> None:
        """Write whole blocks. Raises `HypervisorError` ``no-space`` when a new block is needed and none is left."""
        self._check(offset, len(data))
        for start in range(0, len(data), BLOCK):
            index = (offset + start) // BLOCK
            if index not in self.blocks and self.space is not None:
                self.space.claim()
            self.blocks[index] = data[start : start + BLOCK]

    def _check(self, offset: int, length: int) -> None:
        if offset % BLOCK or length % BLOCK or offset < 0 or length <= 0 or offset + length > self.size_bytes:
            raise HypervisorError("bad-request", f"range {offset}+{length} does not fit a disk of {self.size_bytes}")

    def chain(self) -> Iterator[Layer]:
        """This layer and everything below it, top first."""
        layer: Layer | None = self
        while layer is not None:
            yield layer
            layer = layer.backing

    def flat(self, space: Space | None = None, size_bytes: int = 0) -> Layer:
        """A full copy of what this layer shows, without backing."""
        if space is not None:
            space.claim()
        copy = Layer(max(size_bytes, self.size_bytes), "qcow2", None, space)
        for layer in reversed(list(self.chain())):
            copy.blocks.update(layer.blocks)
        return copy

    def absorb_backing(self) -> None:
        """Pull the blocks of the layer below into this one, and stand on what that stood on."""
        below = self.backing
        if below is not None:
            self.blocks = {**below.blocks, **self.blocks}
            self.backing = below.backing

    def content(self) -> Iterator[bytes]:
        if self.format == "qcow2":
            depth = sum(1 for _ in self.chain())
            yield QCOW2_MAGIC + f" size={self.size_bytes} depth={depth} valid={self.valid}\n".encode()
            for index in sorted(self.blocks):
                yield index.to_bytes(8, "big") + self.blocks[index]
        else:
            for index in range(self.size_bytes // BLOCK):
                yield self.blocks.get(index, _ZERO)


class Files:
    """What lies at which path on one host: its own files, and those of the shared storages that it mounts."""

    def __init__(self, shared: dict[str, File], shared_prefixes: tuple[str, ...]) -> None:
        self._shared = shared
        self._prefixes = shared_prefixes
        self._local: dict[str, File] = {}

    def _home(self, path: str) -> dict[str, File]:
        return self._shared if path.startswith(self._prefixes) else self._local

    def get(self, path: str) -> File | None:
        return self._home(path).get(path)

    def layer(self, path: str) -> Layer:
        """The disk layer at `path`; raises `HypervisorError` ``bad-image`` when there is none."""
        file = self.get(path)
        if not isinstance(file, Layer):
            raise HypervisorError("bad-image", f"{path} is not there or not a disk image")
        return file

    def put(self, path: str, file: File) -> None:
        self._home(path)[path] = file

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone already is fine."""
        self._home(path).pop(path, None)

    def path_of(self, file: File) -> str:
        """Where a file lies; empty when it lies nowhere any more."""
        for home in (self._local, self._shared):
            for path, found in home.items():
                if found is file:
                    return path
        return ""

    def paths(self) -> list[str]:
        return sorted([*self._local, *self._shared])
