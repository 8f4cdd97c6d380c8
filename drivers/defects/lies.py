"""Whole drivers that lie: they do nothing, refuse everything, or declare what is not so."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from conformance.driver import Completed, Operation
from conformance.errors import (
    Busy,
    DriverError,
    Exists,
    HypervisorFailure,
    InvalidState,
    NotFound,
    Timeout,
    Unsupported,
)
from conformance.model import (
    Capability,
    Declared,
    DiskState,
    MigrateOptions,
    NicState,
    PowerState,
    RebootMode,
    StopMode,
    VmSpec,
    VmState,
)
from drivers.wrapping import Defect, Wrapper, dress, wrapping


class EchoDriver(Wrapper):
    """A perfect API state machine with no VM behind it."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._vms: dict[str, VmState] = {}

    def create(self, spec: VmSpec) -> Operation[str]:
        if any(state.name == spec.name for state in self._vms.values()):
            raise Exists(f"the name {spec.name!r} is taken", operation="create", vm=spec.name)
        id = str(uuid.uuid5(uuid.NAMESPACE_OID, spec.name))
        disks = (
            DiskState("root", spec.root_disk_bytes),
            *(DiskState(disk.serial, disk.size_bytes) for disk in spec.disks),
        )
        nics = tuple(NicState(nic.mac, nic.mac, nic.network) for nic in spec.nics)
        host = spec.host or self.inner.hosts()[0]
        self._vms[id] = VmState(id, spec.name, id, PowerState.STOPPED, host, spec.vcpus, spec.memory_mib, disks, nics)
        return Completed(id)

    def _known(self, vm: str, operation: str) -> VmState:
        if vm not in self._vms:
            raise NotFound(f"no VM {vm}", operation=operation, vm=vm)
        return self._vms[vm]

    def _become(self, vm: str, operation: str, power: PowerState, *allowed: PowerState) -> Operation[None]:
        state = self._known(vm, operation)
        if allowed and state.power not in allowed:
            raise InvalidState(current=state.power, allowed=allowed, operation=operation, vm=vm)
        self._vms[vm] = replace(state, power=power)
        return Completed(None)

    def delete(self, vm: str) -> Operation[None]:
        self._known(vm, "delete")
        del self._vms[vm]
        return Completed(None)

    def get(self, vm: str) -> VmState:
        return self._known(vm, "get")

    def find(self, name: str) -> str:
        for id, state in self._vms.items():
            if state.name == name:
                return id
        raise NotFound(f"no VM named {name!r}", operation="find", vm=name)

    def list(self) -> Sequence[str]:
        return tuple(self._vms)

    def start(self, vm: str) -> Operation[None]:
        return self._become(vm, "start", PowerState.RUNNING)

    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:  # noqa: ARG002
        return self._become(vm, "stop", PowerState.STOPPED)

    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:  # noqa: ARG002
        return self._become(vm, "reboot", PowerState.RUNNING, PowerState.RUNNING)

    def addresses(self, vm: str) -> Sequence[str]:
        self._known(vm, "addresses")
        return ("192.0.2.99",)

    def reclaim(self, name: str) -> None:
        self._vms = {id: state for id, state in self._vms.items() if state.name != name}

    def pause(self, vm: str) -> Operation[None]:
        return self._become(vm, "pause", PowerState.PAUSED, PowerState.RUNNING)

    def resume(self, vm: str) -> Operation[None]:
        return self._become(vm, "resume", PowerState.RUNNING, PowerState.PAUSED)

    def suspend(self, vm: str) -> Operation[None]:
        return self._become(vm, "suspend", PowerState.SUSPENDED, PowerState.RUNNING)

    def migrate(self, vm: str, host: str, options: MigrateOptions | None = None) -> Operation[None]:  # noqa: ARG002
        state = self._known(vm, "migrate")
        self._vms[vm] = replace(state, host=host)
        return Completed(None)

    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        state = self._known(vm, "resize")
        self._vms[vm] = replace(state, vcpus=vcpus or state.vcpus, memory_mib=memory_mib or state.memory_mib)
        return Completed(None)


class NoopDriver(EchoDriver):
    """Every call succeeds; nothing happens, not even in its own books."""

    def _known(self, vm: str, operation: str) -> VmState:  # noqa: ARG002
        return self._vms.get(vm) or VmState(vm, vm, vm, PowerState.RUNNING, self.inner.hosts()[0], 1, 128)

    def _become(self, vm: str, operation: str, power: PowerState, *allowed: PowerState) -> Operation[None]:  # noqa: ARG002
        return Completed(None)

    def delete(self, vm: str) -> Operation[None]:
        self._vms.pop(vm, None)
        return Completed(None)


_BASICS = frozenset(
    ("close", "facts", "capabilities", "hosts", "networks", "create", "delete", "get", "list", "start", "reclaim")
)


def refuse_all_but_boot(driver: Any) -> Any:
    """Everything but a boot raises `NotImplementedError`, as nova's shared driver test puts up with."""

    def refuse(_self: Wrapper, *_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError

    probe = dress(Wrapper, driver)
    methods = {name for name in vars(type(probe)) if not name.startswith("_") and callable(vars(type(probe))[name])}
    body: dict[str, Any] = dict.fromkeys(methods - _BASICS, refuse)
    return dress(type("NotImplementedDriver", (Wrapper,), body), driver)


class DeclaresEverything(Wrapper):
    def capabilities(self) -> Mapping[Capability, Declared]:
        return {capability: Declared(capability) for capability in Capability}


class DeclaresNothing(Wrapper):
    def capabilities(self) -> Mapping[Capability, Declared]:
        return {}


class AcceptsUndeclared(Wrapper):
    """Drops what it cannot do from the request, and does the rest."""

    def snapshot(
        self,
        vm: str,
        name: str,
        *,
        memory: bool = False,
        quiesce: bool = False,
        exclude: Sequence[str] = (),  # noqa: ARG002
    ) -> Operation[str]:
        taking: Operation[str] = self.inner.snapshot(vm, name, memory=memory, quiesce=quiesce)
        return taking

    def migrate(self, vm: str, host: str, options: MigrateOptions | None = None) -> Operation[None]:
        wanted = replace(options or MigrateOptions(), postcopy=False)
        migrating: Operation[None] = self.inner.migrate(vm, host, wanted)
        return migrating

    def resize(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> Operation[None]:
        try:
            resizing: Operation[None] = self.inner.resize(vm, vcpus=vcpus, memory_mib=memory_mib)
        except Unsupported:
            return Completed(None)
        return resizing


class UntypedErrors(Wrapper):
    """Every error is a plain one."""

    def get(self, vm: str) -> VmState:
        try:
            state: VmState = self.inner.get(vm)
        except DriverError as error:
            raise HypervisorFailure(str(error), operation="get", vm=vm) from error
        return state

    def start(self, vm: str) -> Operation[None]:
        try:
            starting: Operation[None] = self.inner.start(vm)
        except DriverError as error:
            raise HypervisorFailure(str(error), operation="start", vm=vm) from error
        return starting


class StuckAfterFailure(Wrapper):
    """A VM whose operation failed once stays busy for ever (nova LP#1999674)."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._stuck: set[str] = set()

    def _guard(self, vm: str, operation: str) -> None:
        if vm in self._stuck:
            raise Busy("still busy", operation=operation, vm=vm)

    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:
        self._guard(vm, "reboot")
        try:
            self.inner.reboot(vm, mode).wait()
        except Timeout:
            self._stuck.add(vm)
            raise
        return Completed(None)

    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:
        self._guard(vm, "stop")
        try:
            self.inner.stop(vm, mode).wait()
        except DriverError:
            self._stuck.add(vm)
            raise
        return Completed(None)

    def start(self, vm: str) -> Operation[None]:
        self._guard(vm, "start")
        starting: Operation[None] = self.inner.start(vm)
        return starting

    def migrate(self, vm: str, host: str, options: MigrateOptions | None = None) -> Operation[None]:
        self._guard(vm, "migrate")
        try:
            migrating: Operation[None] = self.inner.migrate(vm, host, options or MigrateOptions())
        except DriverError:
            self._stuck.add(vm)
            raise
        return migrating


class FailsOneInTen(Wrapper):
    """Every tenth start fails; the next one works."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self._calls = itertools.count(1)

    def start(self, vm: str) -> Operation[None]:
        if next(self._calls) % 10 == 0:
            raise HypervisorFailure("the hypervisor was not in the mood", operation="start", vm=vm)
        starting: Operation[None] = self.inner.start(vm)
        return starting


DEFECTS = (
    wrapping(
        "noop-driver",
        NoopDriver,
        "csi-sanity cases that hold on a no-op (known-defects, suite level)",
        "Every call reports success and nothing happens",
        ("boot.correct-image", "reboot.soft-new-boot-id", "del.gone-everywhere", "err.not-found-typed"),
        "guest",
    ),
    wrapping(
        "echo-driver",
        EchoDriver,
        "Tempest, Marvin: a perfect API with no VM behind it",
        "The API's states are right, and there is no VM",
        ("boot.correct-image", "reboot.soft-new-boot-id", "mig.runs-on-target"),
        "guest",
    ),
    Defect(
        "not-implemented-driver",
        "nova/tests/unit/virt/test_virt_drivers.py, catch_notimplementederror",
        "Everything but a boot raises NotImplementedError",
        ("reboot.soft-new-boot-id", "stop.graceful-shutdown"),
        "driver",
        refuse_all_but_boot,
    ),
    wrapping(
        "lying-caps",
        DeclaresEverything,
        "gateway-api SupportedFeatures (known-defects, suite level)",
        "Everything is declared, half is there",
        ("cap.declared-works",),
        "driver",
    ),
    wrapping(
        "sandbagging-caps",
        DeclaresNothing,
        "gateway-api SupportedFeatures (known-defects, suite level)",
        "Everything is there, nothing is declared",
        ("cap.undeclared-refused",),
        "driver",
    ),
    wrapping(
        "undeclared-accepted",
        AcceptsUndeclared,
        "known-defects: options dropped in silence",
        "An option that is not offered is ignored and success reported",
        ("cap.undeclared-refused",),
        "driver",
    ),
    wrapping(
        "untyped-errors",
        UntypedErrors,
        "synthetic: one error class for everything",
        "NotFound and InvalidState arrive as a plain failure",
        ("err.not-found-typed",),
        "driver",
    ),
    wrapping(
        "stuck-after-failure",
        StuckAfterFailure,
        "nova LP#1999674",
        "After a failed operation the VM stays busy",
        ("conc.busy-clears",),
        "driver",
    ),
    wrapping(
        "flaky-driver",
        FailsOneInTen,
        "known-defects, suite level",
        "Every tenth start fails; the run has to show it as flaky, with its rate",
        (),
        "driver",
    ),
)
