"""Defects in snapshots, sizes and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from conformance.driver import Completed, Operation, Pause
from conformance.errors import DriverError, InvalidRequest, NotFound
from conformance.model import PowerState, VmState, VolumeState
from drivers.wrapping import Wrapper, wrapping


class RevertDoesNothing(Wrapper):
    def revert(self, vm: str, snapshot: str) -> Operation[None]:  # noqa: ARG002
        self.inner.get(vm)
        return Completed(None)


class RunningRevertDoesNothing(Wrapper):
    def revert(self, vm: str, snapshot: str) -> Operation[None]:
        if self.inner.get(vm).power is PowerState.RUNNING:
            return Completed(None)
        reverting: Operation[None] = self.inner.revert(vm, snapshot)
        return reverting


class UnknownSnapshotIsLatest(Wrapper):
    def revert(self, vm: str, snapshot: str) -> Operation[None]:
        known = [state.id for state in self.inner.snapshots(vm)]
        wanted = snapshot if snapshot in known or not known else known[-1]
        reverting: Operation[None] = self.inner.revert(vm, wanted)
        return reverting


class SnapshotWithoutMemory(Wrapper):
    def snapshot(
        self,
        vm: str,
        name: str,
        *,
        memory: bool = False,  # noqa: ARG002
        quiesce: bool = False,
        exclude: Sequence[str] = (),
    ) -> Operation[str]:
        taking: Operation[str] = self.inner.snapshot(vm, name, memory=False, quiesce=quiesce, exclude=exclude)
        return taking


class SnapshotResumesPaused(Wrapper):
    def snapshot(
        self, vm: str, name: str, *, memory: bool = False, quiesce: bool = False, exclude: Sequence[str] = ()
    ) -> Operation[str]:
        paused = self.inner.get(vm).power is PowerState.PAUSED
        id = self.inner.snapshot(vm, name, memory=memory, quiesce=quiesce, exclude=exclude).wait()
        if paused and isinstance(self.inner, Pause):
            self.inner.resume(vm).wait()
        return Completed(id)


class ResizeSaysOk(Wrapper):
    """Reports the size that was asked for."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._claimed: dict[str, tuple[int, int]] = {}

    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        state = self.get(vm)
        self._claimed[vm] = (vcpus or state.vcpus, memory_mib or state.memory_mib)
        return Completed(None)

    def get(self, vm: str) -> VmState:
        state: VmState = self.inner.get(vm)
        if vm not in self._claimed:
            return state
        vcpus, memory_mib = self._claimed[vm]
        return replace(state, vcpus=vcpus, memory_mib=memory_mib)


class ResizeForgetsMemory(Wrapper):
    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        if vcpus is None and memory_mib is not None:
            return Completed(None)
        resizing: Operation[None] = self.inner.resize(vm, vcpus=vcpus)
        return resizing


class ResizeStarts(Wrapper):
    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        self.inner.resize(vm, vcpus=vcpus, memory_mib=memory_mib).wait()
        if self.inner.get(vm).power is PowerState.STOPPED:
            self.inner.start(vm).wait()
        return Completed(None)


class ShrinkAccepted(Wrapper):
    def resize_disk(self, vm: str, serial: str, size_bytes: int) -> Operation[None]:
        try:
            growing: Operation[None] = self.inner.resize_disk(vm, serial, size_bytes)
        except InvalidRequest:
            return Completed(None)
        return growing


class AttachErrorSwallowed(Wrapper):
    def attach_volume(self, vm: str, volume: str) -> Operation[None]:
        with suppress(DriverError):
            self.inner.attach_volume(vm, volume).wait()
        return Completed(None)


class DetachFromReportOnly(Wrapper):
    """Detaches in its own books."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._claimed: set[str] = set()

    def detach_volume(self, vm: str, volume: str) -> Operation[None]:
        self.inner.get(vm)
        self._claimed.add(volume)
        return Completed(None)

    def volumes(self) -> Sequence[VolumeState]:
        states: Sequence[VolumeState] = self.inner.volumes()
        return [replace(state, attached_to=()) if state.id in self._claimed else state for state in states]

    def get(self, vm: str) -> VmState:
        state: VmState = self.inner.get(vm)
        return replace(state, disks=tuple(disk for disk in state.disks if disk.volume not in self._claimed))


class DeleteTakesVolumes(Wrapper):
    def delete(self, vm: str) -> Operation[None]:
        attached = [disk.volume for disk in self.inner.get(vm).disks if disk.volume]
        self.inner.delete(vm).wait()
        for volume in attached:
            with suppress(DriverError):
                self.inner.delete_volume(volume).wait()
        return Completed(None)


class DeleteDoesNothing(Wrapper):
    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._gone: set[str] = set()

    def delete(self, vm: str) -> Operation[None]:
        self._gone.add(vm)
        return Completed(None)

    def get(self, vm: str) -> VmState:
        if vm in self._gone:
            raise NotFound("deleted", operation="get", vm=vm)
        state: VmState = self.inner.get(vm)
        return state

    def list(self) -> Sequence[str]:
        return [vm for vm in self.inner.list() if vm not in self._gone]


DEFECTS = (
    wrapping(
        "revert-noop",
        RevertDoesNothing,
        "apache/cloudstack#4356",
        "Revert reports success without effect",
        ("snap.point-in-time",),
        "guest",
    ),
    wrapping(
        "revert-running-noop",
        RunningRevertDoesNothing,
        "apache/cloudstack#4356",
        "Revert of a running VM reports success without effect",
        ("snap.revert-running-policy",),
        "guest",
    ),
    wrapping(
        "revert-unknown-id",
        UnknownSnapshotIsLatest,
        "OpenNebula/one#3687",
        "Revert to an unknown snapshot goes to the latest one",
        ("snap.revert-unknown-id",),
        "guest",
    ),
    wrapping(
        "snapshot-memory-dropped",
        SnapshotWithoutMemory,
        "apache/cloudstack#11428",
        "A snapshot with memory has none",
        ("snap.memory-revert",),
        "guest",
    ),
    wrapping(
        "snapshot-resumes-paused",
        SnapshotResumesPaused,
        "nova LP#1741667: snapshots of paused VMs",
        "A snapshot of a paused VM leaves it running",
        ("snap.paused-vm",),
        "host",
    ),
    wrapping(
        "resize-fail-says-ok",
        ResizeSaysOk,
        "apache/cloudstack#3543",
        "The new size is reported and the old one is in force",
        ("resize.up-cpu-mem",),
        "guest",
    ),
    wrapping(
        "resize-forgets-memory",
        ResizeForgetsMemory,
        "synthetic: half of a resize",
        "vCPUs change, memory does not",
        ("resize.up-cpu-mem",),
        "guest",
    ),
    wrapping(
        "resize-stopped-becomes-active",
        ResizeStarts,
        "nova LP#1551703",
        "A stopped VM runs after a resize",
        ("resize.cold-keeps-power-state",),
        "host",
    ),
    wrapping(
        "shrink-accepted",
        ShrinkAccepted,
        "synthetic: a refused shrink is reported as done",
        "Shrinking a disk reports success",
        ("resize.disk-shrink-refused",),
        "driver",
    ),
    wrapping(
        "attach-error-swallowed",
        AttachErrorSwallowed,
        "nova LP#1825882",
        "A failed attach reports success",
        ("err.unknown-hypervisor-error-not-swallowed",),
        "guest",
    ),
    wrapping(
        "detach-live-skipped",
        DetachFromReportOnly,
        "nova LP#1707238",
        "A volume is reported as detached and the guest keeps it",
        ("disk.detach-really-detached",),
        "guest",
    ),
    wrapping(
        "delete-takes-volumes",
        DeleteTakesVolumes,
        "nova LP#1550919: clean-up deletes what the VM does not own",
        "Deleting a VM deletes the volumes attached to it",
        ("disk.vm-delete-keeps-foreign",),
        "host",
    ),
    wrapping(
        "delete-noop",
        DeleteDoesNothing,
        "apache/cloudstack#3645: stuck in Expunging",
        "A deleted VM is gone from the API only",
        ("del.gone-everywhere",),
        "host",
    ),
)
