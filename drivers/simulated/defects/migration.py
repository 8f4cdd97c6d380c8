"""Defects in migration."""

from __future__ import annotations

from drivers.simulated.defects.planting import inside
from labs.simulated.world.disks import Layer
from labs.simulated.world.guest import Guest
from labs.simulated.world.migration import Hypervisor, Move
from labs.simulated.world.process import Process


class LeavesSourceRunning(Hypervisor):
    def remove_source(self, move: Move) -> None:
        """A second copy of the guest goes on at the source."""
        there = move.target.domains[move.domain.config.uuid].process
        if there is None or there.guest is None:
            super().remove_source(move)
            return
        if move.domain.process is not None:
            move.domain.process.end()
        copy = Process(move.domain, move.source)
        move.domain.process = copy
        move.source.domains[move.domain.config.uuid] = move.domain
        guest = Guest(copy)
        guest.copy_of(there.guest.memory, there.guest.monotonic_ns())
        copy.adopt(guest)


class NoAnnouncement(Hypervisor):
    def announce(self, move: Move) -> None:
        """Nothing is said; the switches find out by themselves, or not."""


class NetworkLost(Hypervisor):
    def announce(self, move: Move) -> None:
        super().announce(move)
        if move.incoming.process is not None:
            for vif in move.incoming.process.vifs.values():
                vif.port.link = False


class LastPagesLost(Hypervisor):
    def announce(self, move: Move) -> None:
        super().announce(move)
        guest = move.incoming.process.guest if move.incoming.process is not None else None
        if guest is not None:
            for _, damaged in guest.memory.patterns.values():
                damaged.add(0)


class BootsAgainOnTarget(Hypervisor):
    def announce(self, move: Move) -> None:
        super().announce(move)
        if move.incoming.process is not None:
            move.incoming.process.reset()


class LeavesSourceDefined(Hypervisor):
    def remove_source(self, move: Move) -> None:
        if move.domain.process is not None:
            move.domain.process.end()


class LeavesListener(Hypervisor):
    def close_listener(self, move: Move) -> None:
        """It stays open."""


class FailureLosesVm(Hypervisor):
    def roll_back(self, move: Move, *, was_paused: bool) -> None:
        super().roll_back(move, was_paused=was_paused)
        if move.domain.process is not None:
            move.domain.process.end()


class FailureCutsNetwork(Hypervisor):
    def roll_back(self, move: Move, *, was_paused: bool) -> None:
        super().roll_back(move, was_paused=was_paused)
        if move.domain.process is not None:
            for vif in move.domain.process.vifs.values():
                vif.port.link = False


class FailureLeavesTarget(Hypervisor):
    def roll_back(self, move: Move, *, was_paused: bool) -> None:
        kept = move.target.domains.get(move.domain.config.uuid)
        super().roll_back(move, was_paused=was_paused)
        if kept is not None:
            move.target.domains[kept.config.uuid] = kept


class DeadLinkHangs(Hypervisor):
    keepalive_s = 1e9


class RulesStayBehind(Hypervisor):
    def announce(self, move: Move) -> None:
        super().announce(move)
        if move.incoming.process is not None:
            for vif in move.incoming.process.vifs.values():
                vif.port.allows = None
                move.target.rules.pop(f"anti-spoof {vif.port.name}", None)


class CopyTruncated(Hypervisor):
    def copy_disks(self, move: Move) -> None:
        super().copy_disks(move)
        for path in move.copied.values():
            layer = move.target.files.get(path)
            if isinstance(layer, Layer):
                for index in [index for index in layer.blocks if index >= 256 and index * 4096 < 32 << 20]:
                    del layer.blocks[index]


class LongOutage(Hypervisor):
    downtime_s = 20.0


class ClockJumpsBack(Hypervisor):
    def announce(self, move: Move) -> None:
        super().announce(move)
        guest = move.incoming.process.guest if move.incoming.process is not None else None
        if guest is not None:
            guest.turn_back(3.0)


DEFECTS = (
    inside(
        "mig-leaves-source",
        LeavesSourceRunning,
        "nova LP#1905944, OpenNebula/one#3582",
        "After a migration the VM runs on both hosts",
        ("mig.never-two", "mig.runs-on-target"),
        "host",
    ),
    inside(
        "mig-no-announce",
        NoAnnouncement,
        "kubevirt#4999",
        "Nobody tells the switches; the VM cannot be reached until it speaks",
        ("mig.switch-learns",),
        "wire",
    ),
    inside(
        "mig-loses-network",
        NetworkLost,
        "xcp-ng/xcp#228",
        "The VM has no network after a migration",
        ("mig.tcp-survives", "mig.mac-ip-same"),
        "wire",
    ),
    inside(
        "mig-dirty-pages-lost",
        LastPagesLost,
        "cloud-hypervisor 7042922e8",
        "RAM changed at the last moment is lost",
        ("mig.same-boot",),
        "guest",
    ),
    inside(
        "mig-reboots",
        BootsAgainOnTarget,
        "apache/cloudstack#7285",
        "The VM boots again on the target",
        ("mig.same-boot",),
        "guest",
    ),
    inside(
        "mig-old-dir-left",
        LeavesSourceDefined,
        "nova LP#1465446",
        "The source still knows the VM",
        ("mig.runs-on-target",),
        "host",
    ),
    inside(
        "mig-leaves-listener",
        LeavesListener,
        "cloud-hypervisor ee6cafdcd",
        "A failed migration leaves its port bound",
        ("mig.failed-no-target-residue",),
        "host",
    ),
    inside(
        "mig-failure-loses-vm",
        FailureLosesVm,
        "nova LP#1262206",
        "A failed migration destroys the VM",
        ("mig.abort", "mig.target-dies"),
        "host",
    ),
    inside(
        "mig-failure-cuts-network",
        FailureCutsNetwork,
        "nova LP#1788014",
        "A failed migration leaves the source's port down",
        ("mig.failed-keeps-source-network",),
        "wire",
    ),
    inside(
        "mig-failed-stays-on-dest",
        FailureLeavesTarget,
        "OpenNebula/one#3582",
        "A failed migration leaves the VM on the target, too",
        ("mig.failed-no-target-residue",),
        "host",
    ),
    inside(
        "mig-dead-link-hangs",
        DeadLinkHangs,
        "cloud-hypervisor fa74e7a84",
        "A silently cut link hangs the migration for ever",
        ("mig.network-cut",),
        "driver",
    ),
    inside(
        "mig-rules-not-moved",
        RulesStayBehind,
        "apache/cloudstack#3192",
        "Anti-spoofing is gone on the target",
        ("mig.l2-policy-follows",),
        "wire",
    ),
    inside(
        "mig-copy-truncated",
        CopyTruncated,
        "xcp-ng/xcp#444",
        "A copied disk is incomplete, and the source is deleted",
        ("mig.block-migration-content",),
        "guest",
    ),
    inside(
        "mig-long-outage",
        LongOutage,
        "nova LP#1284996, kubevirt#5912",
        "The network is gone for 20 s",
        ("mig.downtime-bound",),
        "wire",
    ),
    inside(
        "mig-clock-back",
        ClockJumpsBack,
        "synthetic: the guest's clock is not carried over",
        "The monotonic clock goes back",
        ("mig.clock-monotonic",),
        "guest",
    ),
)
