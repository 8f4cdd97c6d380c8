"""Defects in disks, snapshots and clean-up."""

from __future__ import annotations

from collections.abc import Sequence

from drivers.simulated.defects.planting import inside
from labs.simulated.world.clock import Steps
from labs.simulated.world.disks import Layer
from labs.simulated.world.domain import Config, DiskConfig, Domain, NicConfig, Snapshot
from labs.simulated.world.host import Host
from labs.simulated.world.migration import Hypervisor


class OneDiskNotReverted(Hypervisor):
    def revert_disk(self, host: Host, domain: Domain, disk: DiskConfig, snapshot: Snapshot) -> None:
        if disk is domain.config.disks[-1] and len(domain.config.disks) > 1:
            return
        super().revert_disk(host, domain, disk, snapshot)


class SharedParentDropped(Hypervisor):
    def merge(self, host: Host, path: str) -> None:
        layer = host.files.get(path)
        for known in host.files.paths():
            other = host.files.get(known)
            if isinstance(other, Layer) and other.backing is layer:
                other.backing = None
        host.files.remove(path)


class MergeSkipsBlocks(Hypervisor):
    """What only the merged layer holds is lost; what was written again later hides it."""

    def merge(self, host: Host, path: str) -> None:
        layer = host.files.get(path)
        for known in host.files.paths():
            other = host.files.get(known)
            if isinstance(other, Layer) and isinstance(layer, Layer) and other.backing is layer:
                other.backing = layer.backing
        host.files.remove(path)


class MergeForgotten(Hypervisor):
    def merge(self, host: Host, path: str) -> None:
        """The snapshot is forgotten, its layer stays."""


class OnlineGrowCorrupts(Hypervisor):
    def grow(self, host: Host, domain: Domain, serial: str, size_bytes: int) -> None:
        super().grow(host, domain, serial, size_bytes)
        disk = domain.config.disk(serial)
        if disk is not None and domain.process is not None:
            layer = host.files.layer(disk.path)
            for index in sorted(layer.blocks)[-4:]:
                layer.blocks[index] = bytes(4096)


class DeleteLeaksDisk(Hypervisor):
    def owned_layers(self, host: Host, domain: Domain) -> list[str]:
        return super().owned_layers(host, domain)[:-1]


class DeleteLeaksTap(Hypervisor):
    def undefine(self, host: Host, domain: Domain) -> None:
        taps = dict(host.taps)
        super().undefine(host, domain)
        host.taps.update(taps)


class FailedCreateLeaksTap(Hypervisor):
    """Makes the taps before the disks, and forgets them when the disks fail."""

    def new_nic(self, config: Config, mac: str, network: str, anti_spoof: bool) -> NicConfig:
        nic = super().new_nic(config, mac, network, anti_spoof)
        self.first.taps[f"tap-{nic.id}"] = mac
        return nic

    def define(self, host: Host, config: Config, disks: Sequence[tuple[str, Layer]]) -> Domain:
        domain = super().define(host, config, disks)
        for nic in config.nics:
            self.first.taps.pop(f"tap-{nic.id}", None)
        return domain

    @property
    def first(self) -> Host:
        return next(iter(self.world.hosts.values()))


class CloneSharesDisks(Hypervisor):
    def clone(self, host: Host, source: Domain, name: str, macs: Sequence[str]) -> Steps[str]:
        id = yield from super().clone(host, source, name, macs)
        copy = host.domains[id]
        for mine, theirs in zip(copy.config.disks, source.config.disks, strict=False):
            made, original = host.files.layer(mine.path), host.files.layer(theirs.path)
            made.blocks = original.blocks
        return id


class StateFileLeft(Hypervisor):
    def start(self, host: Host, domain: Domain) -> Steps[None]:
        path, file = domain.state_path, host.files.get(domain.state_path)
        yield from super().start(host, domain)
        if file is not None:
            host.files.put(path, file)


class BaseImageWritten(Hypervisor):
    def define(self, host: Host, config: Config, disks: Sequence[tuple[str, Layer]]) -> Domain:
        domain = super().define(host, config, disks)
        image = host.files.layer(str(self.world.inventory.images[0].path))
        image.write(8192, b"x" * 4096)
        return domain


class FlushIgnored(Hypervisor):
    """Cutting the power or a reset loses what was written last."""

    def reset(self, domain: Domain) -> None:
        self._lose(domain)
        super().reset(domain)

    def destroy(self, domain: Domain) -> None:
        self._lose(domain)
        super().destroy(domain)

    @staticmethod
    def _lose(domain: Domain) -> None:
        if domain.process is not None:
            for serial, layer in domain.process.layers.items():
                if serial != "root" and layer.blocks:
                    del layer.blocks[max(layer.blocks)]


DEFECTS = (
    inside(
        "snap-revert-one-disk-fails",
        OneDiskNotReverted,
        "xen-api 0c6eb2c4da",
        "One disk is not reverted",
        ("snap.revert-all-disks",),
        "guest",
    ),
    inside(
        "snap-branch-delete-breaks-sibling",
        SharedParentDropped,
        "apache/cloudstack PR#10632",
        "Deleting a snapshot loses what others stand on",
        ("snap.delete-middle-keeps-data", "snap.branching"),
        "guest",
    ),
    inside(
        "snap-merge-skips-blocks",
        MergeSkipsBlocks,
        "apache/cloudstack#3193",
        "Blocks that were only written before a deleted snapshot are lost",
        ("snap.delete-middle-keeps-data",),
        "guest",
    ),
    inside(
        "snap-delta-left",
        MergeForgotten,
        "xen-api#4145",
        "A deleted snapshot leaves its layer behind",
        ("snap.delete-middle-keeps-data",),
        "host",
    ),
    inside(
        "resize-online-corrupts",
        OnlineGrowCorrupts,
        "OpenNebula/one#1585",
        "Growing a disk of a running VM corrupts it",
        ("resize.disk-grow-online",),
        "guest",
    ),
    inside(
        "del-disk-left",
        DeleteLeaksDisk,
        "xen-api#4145",
        "A deleted VM leaves a disk behind",
        ("del.no-disk-leak",),
        "host",
    ),
    inside(
        "del-tap-leak",
        DeleteLeaksTap,
        "nova LP#1648840",
        "A deleted VM leaves its taps behind",
        ("del.no-net-leak",),
        "host",
    ),
    inside(
        "failed-create-leaks-tap",
        FailedCreateLeaksTap,
        "nova LP#1648840",
        "A failed create leaves interfaces behind",
        ("boot.failed-spawn-cleans-up",),
        "host",
    ),
    inside(
        "clone-shares-disks",
        CloneSharesDisks,
        "synthetic: a clone that is a link",
        "Writes in a clone are seen in its source",
        ("clone.independent",),
        "guest",
    ),
    inside(
        "suspend-state-file-left",
        StateFileLeft,
        "synthetic: the state file is not removed",
        "RAM of a resumed VM stays on disk",
        ("suspend.state-file-removed",),
        "host",
    ),
    inside(
        "base-image-written",
        BaseImageWritten,
        "synthetic: a VM's disk is the image itself",
        "Creating a VM writes to the image",
        ("image.base-not-modified",),
        "host",
    ),
    inside(
        "flush-ignored",
        FlushIgnored,
        "cloud-hypervisor b68e7f3d9: completed writes vanish",
        "A power cut loses flushed data",
        ("reboot.disk-survives",),
        "guest",
    ),
)
