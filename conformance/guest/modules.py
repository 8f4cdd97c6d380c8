"""Kernel modules for the guest: found below lib/modules, unpacked, and ordered by their own dependencies."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Iterable
from pathlib import Path

from conformance.errors import LabError
from conformance.guest.packages import run

# group: modules; the agent loads a group where the machine has a use for it (agent/init.c)
GROUPS: dict[str, tuple[str, ...]] = {
    "virtio": ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_balloon"),
    "virtio-scsi": ("virtio_scsi", "sd_mod"),
    "mmio": ("virtio_mmio",),
    "acpi": ("button", "evdev"),
    "xen": ("xen-blkfront", "xen-netfront"),
    "hyperv": ("hv_vmbus", "hv_storvsc", "sd_mod", "hv_netvsc", "hv_utils", "hv_balloon"),
    "vmware": ("vmw_pvscsi", "sd_mod", "vmxnet3", "vmw_balloon"),
}
_OPTIONAL = {"mmio", "xen", "hyperv", "vmware"}  # a distribution's kernel may leave them out


def _plain(name: str) -> str:
    return name.replace("-", "_")


class Modules:
    """The modules of one unpacked kernel.

    Args:
        root: The folder the packages were unpacked to.

    Raises:
        LabError: There is not exactly one kernel in it.
    """

    def __init__(self, root: Path) -> None:
        folders = [path for base in ("lib/modules", "usr/lib/modules") for path in sorted((root / base).glob("*"))]
        folders = [path for path in folders if (path / "kernel").is_dir()]
        if len(folders) != 1:
            raise LabError(f"{len(folders)} kernels were unpacked to {root}, not one")
        self.version = folders[0].name
        self._files = {
            _plain(path.name.split(".ko")[0]): path
            for path in folders[0].rglob("*.ko*")
            if re.search(r"\.ko(\.xz|\.zst|\.gz)?$", path.name)
        }
        builtin = [path for path in (folders[0] / "modules.builtin",) if path.exists()]
        self._builtin = {
            _plain(Path(line).name.removesuffix(".ko")) for path in builtin for line in path.read_text().split()
        }
        self._contents: dict[str, bytes] = {}

    def content(self, name: str) -> bytes:
        """The module as the kernel loads it, uncompressed."""
        name = _plain(name)
        if name not in self._contents:
            path = self._files[name]
            data = path.read_bytes()
            if path.suffix == ".xz":
                data = lzma.decompress(data)
            elif path.suffix == ".gz":
                data = gzip.decompress(data)
            elif path.suffix == ".zst":
                data = run("zstd", "-d", "-c", path)
            self._contents[name] = data
        return self._contents[name]

    def path(self, name: str) -> Path:
        """The module's file."""
        return self._files[_plain(name)]

    def closure(self, names: Iterable[str]) -> list[str]:
        """Modules and all that they depend on, dependencies first, built-in ones left out; raises `LabError`."""
        ordered: list[str] = []
        for name in names:
            self._visit(_plain(name), ordered)
        return ordered

    def order(self, group: str) -> list[str]:
        """Names of the group's modules and all that they depend on, dependencies first, built-in ones left out."""
        ordered: list[str] = []
        for name in GROUPS[group]:
            try:
                self._visit(_plain(name), ordered)
            except LabError:
                if group not in _OPTIONAL:
                    raise
        return ordered

    def _visit(self, name: str, ordered: list[str]) -> None:
        if name in ordered or name in self._builtin:
            return
        if name not in self._files:
            raise LabError(f"kernel {self.version} has no module {name}")
        # "depends=" of the module's .modinfo section: depmod, and modules.dep, are then not needed
        found = re.search(rb"\0depends=([^\0]*)\0", self.content(name))
        for needed in (found.group(1).decode() if found else "").split(","):
            if needed:
                self._visit(_plain(needed), ordered)
        ordered.append(name)
