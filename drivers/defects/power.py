"""Defects in starting, stopping, rebooting, pausing and suspending."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from conformance.driver import Completed, Operation
from conformance.errors import DriverError, Timeout
from conformance.model import PowerState, RebootMode, StopMode, VmState
from conformance.waiting import WaitTimeout, until
from drivers.wrapping import Wrapper, wrapping


class RebootDoesNothing(Wrapper):
    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:  # noqa: ARG002
        return Completed(None)


class RebootsTwice(Wrapper):
    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:
        boots = len(self.inner.console_log(vm)) if hasattr(self.inner, "console_log") else 0
        self.inner.reboot(vm, mode).wait()
        # the first new boot has to have counted itself before the second reset
        with_boot = "the first boot to be over"
        try:
            until(with_boot, lambda: b"agent ready" in self.inner.console_log(vm)[boots:], seconds=10.0)
        except (WaitTimeout, AttributeError):
            return Completed(None)
        again: Operation[None] = self.inner.reboot(vm, RebootMode.HARD)
        return again


class SoftRebootIsHard(Wrapper):
    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:  # noqa: ARG002
        rebooting: Operation[None] = self.inner.reboot(vm, RebootMode.HARD)
        return rebooting


class SoftRebootNeverFails(Wrapper):
    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:
        with suppress(Timeout):
            self.inner.reboot(vm, mode).wait()
        return Completed(None)


class StopIsKill(Wrapper):
    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:  # noqa: ARG002
        stopping: Operation[None] = self.inner.stop(vm, StopMode.FORCE)
        return stopping


class StoppedTooEarly(Wrapper):
    """Says stopped as soon as it has asked."""

    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:
        if mode is StopMode.FORCE:
            return Completed(None)
        try:
            self.inner.stop(vm, mode)
        except DriverError:
            return Completed(None)
        return Completed(None)


class StartResets(Wrapper):
    def start(self, vm: str) -> Operation[None]:
        if self.inner.get(vm).power is PowerState.RUNNING:
            resetting: Operation[None] = self.inner.reboot(vm, RebootMode.HARD)
            return resetting
        starting: Operation[None] = self.inner.start(vm)
        return starting


class PauseDoesNothing(Wrapper):
    """Keeps a note of what it should have paused, and reports that."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]  # a driver; the wrapper asks no more of it
        self._noted: set[str] = set()

    def pause(self, vm: str) -> Operation[None]:
        self.inner.get(vm)
        self._noted.add(vm)
        return Completed(None)

    def resume(self, vm: str) -> Operation[None]:
        self._noted.discard(vm)
        return Completed(None)

    def get(self, vm: str) -> VmState:
        state: VmState = self.inner.get(vm)
        return replace(state, power=PowerState.PAUSED) if vm in self._noted else state


class SecondPauseHangs(Wrapper):
    def pause(self, vm: str) -> Operation[None]:
        if self.inner.get(vm).power is PowerState.PAUSED:
            try:
                until("a lock that nobody will release", lambda: False, seconds=120.0, interval=1.0)
            except WaitTimeout as error:
                raise Timeout(phase="pausing", last_state="paused", operation="pause", vm=vm) from error
        pausing: Operation[None] = self.inner.pause(vm)
        return pausing


class SuspendLosesRam(Wrapper):
    """Cuts the power and says suspended."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._noted: set[str] = set()

    def suspend(self, vm: str) -> Operation[None]:
        self.inner.stop(vm, StopMode.FORCE).wait()
        self._noted.add(vm)
        return Completed(None)

    def start(self, vm: str) -> Operation[None]:
        self._noted.discard(vm)
        starting: Operation[None] = self.inner.start(vm)
        return starting

    def get(self, vm: str) -> VmState:
        state: VmState = self.inner.get(vm)
        return replace(state, power=PowerState.SUSPENDED) if vm in self._noted else state


DEFECTS = (
    wrapping(
        "noop-reboot",
        RebootDoesNothing,
        "Tempest and Marvin accept an API state alone (known-defects, weak spots)",
        "A reboot reports success and nothing happens",
        ("reboot.soft-new-boot-id", "reboot.exactly-once"),
        "guest",
    ),
    wrapping(
        "double-reboot",
        RebootsTwice,
        "nova LP#1999674: a reboot is taken up again after it has ended",
        "One reboot request gives two boots",
        ("reboot.exactly-once",),
        "guest",
    ),
    wrapping(
        "soft-reboot-is-hard",
        SoftRebootIsHard,
        "nova c07ed15415: nothing waited for the guest",
        "A soft reboot resets the machine",
        ("reboot.soft-is-graceful",),
        "guest",
    ),
    wrapping(
        "soft-reboot-timeout-hidden",
        SoftRebootNeverFails,
        "nova: soft reboot that times out and is reported as done",
        "The guest ignores the request and success is reported",
        ("reboot.soft-timeout-policy",),
        "guest",
    ),
    wrapping(
        "stop-no-grace",
        StopIsKill,
        "nova c07ed15415",
        "A graceful stop cuts the power",
        ("stop.graceful-shutdown",),
        "guest",
    ),
    wrapping(
        "halted-too-early",
        StoppedTooEarly,
        "xen-api 19e1704fb2: Halted is seen before the devices are free",
        "Stop reports success while the VM runs",
        ("stop.really-stopped",),
        "host",
    ),
    wrapping(
        "start-resets",
        StartResets,
        "synthetic: start of a running VM",
        "Start of a running VM resets it",
        ("start.idempotent",),
        "guest",
    ),
    wrapping(
        "pause-noop",
        PauseDoesNothing,
        "Tempest reads the API state only",
        "Paused is reported and the guest runs on",
        ("pause.freezes-vcpus",),
        "guest",
    ),
    wrapping(
        "pause-not-idempotent",
        SecondPauseHangs,
        "cloud-hypervisor e5dbf5242: the second pause deadlocks",
        "Pausing twice never returns",
        ("pause.idempotent",),
        "driver",
    ),
    wrapping(
        "suspend-stale-metadata",
        SuspendLosesRam,
        "xen-api d875cfa450: a suspended VM cannot be resumed",
        "Resume from suspend boots afresh",
        ("suspend.same-boot-id",),
        "guest",
    ),
)
