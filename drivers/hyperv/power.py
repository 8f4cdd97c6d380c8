"""Power, pause and suspend. A guest is asked through its shutdown component, a request that ends by itself."""

from __future__ import annotations

from conformance.driver import Completed, Operation
from conformance.errors import DriverError, HypervisorFailure, InvalidState
from conformance.model import PowerState, Progress, RebootMode, StopMode
from conformance.waiting import now
from drivers.hyperv.base import OFF, Located
from drivers.hyperv.console import ConsoleLog
from drivers.hyperv.operations import Steps
from drivers.hyperv.transport.base import Command

ASK_AGAIN_S = 3.0
"""A guest that is still booting does not hear the request."""

POWERED = (PowerState.RUNNING, PowerState.PAUSED)


class Power(ConsoleLog):
    """start, stop, reboot; the facets Pause and Suspend."""

    def start(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "start")
        if here.power is PowerState.RUNNING:
            return Completed(None)
        self._require(here, (*OFF, PowerState.SUSPENDED), "start")
        return self._run("start", vm, self._starting(here, "start"))

    def _starting(self, here: Located, operation: str) -> Steps[None]:
        yield from self._vm_job(here, operation, Command("Start-VM"), phase="starting")
        self._console_begin(here)

    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:
        here = self._locate(vm, "stop")
        if here.power in OFF:
            return Completed(None)
        if mode is StopMode.GRACEFUL:
            self._require(here, (PowerState.RUNNING,), "stop")
            return self._run("stop", vm, self._asking(here), abandon=True)
        self._require(here, POWERED, "stop")
        self._cut(here, "stop")
        return Completed(None)

    def _cut(self, here: Located, operation: str) -> None:
        """Cut the power; a VM that went off by itself in the same moment is off as well."""
        try:
            self._vm_ask(here, operation, Command("Stop-VM", {"TurnOff": True, "Force": True}))
        except InvalidState:
            if self._again(here).power not in OFF:
                raise

    def _asking(self, here: Located) -> Steps[None]:
        """Ask the guest to power off, again and again until it has. Never by Stop-VM: at last that cuts the power."""
        asked: float | None = None
        refusal = ""
        while self._again(here).power is not PowerState.STOPPED:
            if asked is None or now() - asked >= ASK_AGAIN_S:
                asked = now()
                refusal = self._shut_down(here)
            yield Progress(0.0, f"waiting for the guest to power off{refusal}")

    def _shut_down(self, here: Located) -> str:
        """Send one request; returns why the guest did not take it, which is no error yet: it may be booting."""
        try:
            value = self._cim(
                here.host,
                {"ClassName": "Msvm_ShutdownComponent", "Filter": f"SystemName = '{here.vm.upper()}'"},
                "InitiateShutdown",
                {"Force": False, "Reason": "asked by hvconform"},
            )
        except DriverError as error:
            return f" ({error.message})"
        return "" if value in (0, 4096) else f" (its shutdown component answered {value})"

    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:
        here = self._locate(vm, "reboot")
        if mode is RebootMode.HARD:
            self._require(here, POWERED, "reboot")
            self._vm_ask(here, "reboot", Command("Restart-VM", {"Force": True}))
            return Completed(None)
        self._require(here, (PowerState.RUNNING,), "reboot")
        return self._run("reboot", vm, self._soft_reboot(here), abandon=True)

    def _soft_reboot(self, here: Located) -> Steps[None]:
        """Off by the guest, then on: the only way to see that the old boot has ended."""
        yield from self._asking(here)
        yield from self._starting(here, "reboot")

    # Pause

    def pause(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "pause")
        if self._require(here, POWERED, "pause") is PowerState.RUNNING:
            self._vm_ask(here, "pause", Command("Suspend-VM"))
        return Completed(None)

    def resume(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "resume")
        if self._require(here, POWERED, "resume") is PowerState.PAUSED:
            self._vm_ask(here, "resume", Command("Resume-VM"))
        return Completed(None)

    # Suspend

    def suspend(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "suspend")
        self._require(here, POWERED, "suspend")
        return self._run("suspend", vm, self._saving(here))

    def _saving(self, here: Located) -> Steps[None]:
        yield from self._vm_job(here, "suspend", Command("Save-VM"), phase="saving")
        power = self._again(here).power
        if power is not PowerState.SUSPENDED:
            raise HypervisorFailure(f"the VM was saved and is {power}", operation="suspend", vm=here.vm, host=here.host)
