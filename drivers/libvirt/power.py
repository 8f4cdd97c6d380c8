"""Power: start, stop, reboot, pause and suspend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from conformance.driver import Completed, Operation
from conformance.errors import HypervisorFailure
from conformance.model import PowerState, Progress, RebootMode, StopMode
from conformance.waiting import WaitTimeout, now, until
from drivers.libvirt import filters, xml
from drivers.libvirt.base import OFF, Base, Located
from drivers.libvirt.binding import lv
from drivers.libvirt.operations import Asked

ASK_AGAIN_SECONDS = 3.0
"""A power button that is pressed before the guest listens is lost, so it is pressed again, as Nova does."""

ASK_AT_MOST_SECONDS = 3600.0
AGENT_SECONDS = 5.0
"""How long a guest agent that was there before may take to be there again."""

CLOCK_SECONDS = 0.5
"""By how much a guest's clock may be wrong after it was set."""


class Power(Base):
    """start, stop, reboot, and the facets Pause and Suspend."""

    def start(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "start")
        current = self._require(here, (*OFF, PowerState.SUSPENDED, PowerState.RUNNING), "start")
        if current is PowerState.RUNNING and self._answers(here):
            return Completed(None)
        return self._start("start", here, lambda: self._power_on(here))

    def _answers(self, here: Located) -> bool:
        """Whether the QEMU of a VM that libvirt calls running answers; False once libvirt has seen that it died."""
        with self._guard("start", here):
            try:
                self._ask_machine(here)
            except lv.libvirtError:
                if here.has_died():
                    return False
                raise
        return True

    def _ask_machine(self, here: Located) -> None:
        """A question that QEMU itself answers, which most are not."""
        here.dom.blockInfo(xml.disk_path(next(iter(xml.disks(here.tree())))))

    def _power_on(self, here: Located) -> None:
        here.cut()  # a guest that panicked and was kept for a look
        slept = bool(here.dom.hasManagedSaveImage(0))
        if slept:
            self._check_state_file(here)
        if here.tree(inactive=True).find("devices/interface/filterref") is not None:
            filters.ensure(here.conn)
        here.dom.create()
        if slept:
            self._set_clock(here)

    def _check_state_file(self, here: Located) -> None:
        """libvirt boots afresh over a damaged state file and tells nobody; reading its header raises instead."""
        here.dom.managedSaveGetXMLDesc(0)

    def _set_clock(self, here: Located) -> None:
        """Tell a guest that slept what time it is: its wall clock went on from where it was.

        Only a guest agent can do that; a guest without one keeps the time that it has.
        """
        if not self._flavour.agent_channel:
            return
        try:
            until("the guest agent's channel", lambda: self._agent_connected(here), seconds=AGENT_SECONDS)
            until("the guest's clock to be set", lambda: self._clock_is_set(here), seconds=AGENT_SECONDS)
        except WaitTimeout:
            return
        except lv.libvirtError as error:
            if error.get_error_code() not in (lv.VIR_ERR_AGENT_UNRESPONSIVE, lv.VIR_ERR_ARGUMENT_UNSUPPORTED):
                raise

    @staticmethod
    def _clock_is_set(here: Located) -> bool:
        """Set the guest's clock; it is wrong by as long as the guest took to do so, which may be too long."""
        asked = now()
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        here.dom.setTime({"seconds": seconds, "nseconds": nanoseconds}, 0)
        return now() - asked < CLOCK_SECONDS

    def stop(self, vm: str, mode: StopMode = StopMode.GRACEFUL) -> Operation[None]:
        here = self._locate(vm, "stop")
        if mode is StopMode.GRACEFUL:
            current = self._require(here, (PowerState.RUNNING, *OFF), "stop")
            if current in OFF:
                return Completed(None)
            return self._ask("stop", here, lambda: None)

        def cut() -> None:
            if here.active:
                here.cut()
            elif here.dom.hasManagedSaveImage(0):
                here.dom.managedSaveRemove(0)

        return self._start("stop", here, cut, override=True)

    def reboot(self, vm: str, mode: RebootMode = RebootMode.SOFT) -> Operation[None]:
        here = self._locate(vm, "reboot")
        if mode is RebootMode.SOFT:
            self._require(here, (PowerState.RUNNING,), "reboot")
            # not virDomainReboot: libvirt would stay set to reset the machine at the guest's next power-off, and a
            # guest that does not follow now would come back up whenever it is shut down later
            return self._ask("reboot", here, lambda: self._power_on(here))
        self._require(here, (PowerState.RUNNING, PowerState.PAUSED, PowerState.CRASHED), "reboot")

        # not virDomainReset: SeaBIOS copies itself to RAM, and a reset that comes while it opens that RAM finds zeros
        # there, in which the vCPU runs for ever; QEMU 7.2 leaves the PAM registers as they are, on i440fx and on q35
        return self._start("reboot", here, lambda: self._power_on(here), override=True)

    def _ask(self, operation: str, here: Located, then: Callable[[], None]) -> Operation[None]:
        """Press the power button, wait until the guest has powered off, and do `then`."""
        self._locks.acquire(here.vm, operation)
        stand_down = self._locks.asking(here.vm)
        flags = self._flavour.flags(self._flavour.shutdown_flags)

        def work() -> None:
            try:
                with self._guard(operation, here):
                    self._await_off(operation, here, flags, stand_down)
                    then()
            finally:
                self._locks.release(here.vm)

        asked = Asked(
            work,
            operation=operation,
            vm=here.vm,
            progress=lambda: Progress(0.5, "waiting for the guest to power off"),
            abort=stand_down.set,
        )
        asked.stand_down = stand_down
        return asked

    def _await_off(self, operation: str, here: Located, flags: int, stand_down: threading.Event) -> None:
        pressed: float | None = None

        def again(before: float) -> bool:
            return self._flavour.ask_again and now() - before > ASK_AGAIN_SECONDS

        def look() -> tuple[int, int]:
            nonlocal pressed
            state: tuple[int, int] = tuple(here.dom.state(0))
            if state[0] == lv.VIR_DOMAIN_RUNNING and (pressed is None or again(pressed)):
                try:
                    here.dom.shutdownFlags(flags)
                except lv.libvirtError as error:
                    # it powered off between the two calls
                    if error.get_error_code() != lv.VIR_ERR_OPERATION_INVALID:
                        raise
                pressed = now()
            return state

        try:
            state, reason = until(
                "the guest to power off",
                look,
                lambda seen: seen[0] == lv.VIR_DOMAIN_SHUTOFF and not here.active,
                seconds=ASK_AT_MOST_SECONDS,
                never=lambda _: "the request was withdrawn" if stand_down.is_set() else None,
            )
        except WaitTimeout as timeout:
            raise HypervisorFailure(
                f"the guest did not power off ({timeout.what})", operation=operation, vm=here.vm, host=here.host
            ) from None
        if reason != lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN:
            raise HypervisorFailure(
                f"the VM ended in another way while the guest was asked (state {state}, reason {reason})",
                operation=operation,
                vm=here.vm,
                host=here.host,
            )

    # Pause

    def pause(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "pause")
        if self._require(here, (PowerState.RUNNING, PowerState.PAUSED), "pause") is PowerState.PAUSED:
            return Completed(None)
        return self._start("pause", here, lambda: self._nothing(here.dom.suspend()))

    def resume(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "resume")
        if self._require(here, (PowerState.RUNNING, PowerState.PAUSED), "resume") is PowerState.RUNNING:
            return Completed(None)
        return self._start("resume", here, lambda: self._nothing(here.dom.resume()))

    # Suspend

    def suspend(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "suspend")
        self._require(here, (PowerState.RUNNING, PowerState.PAUSED), "suspend")
        return self._start("suspend", here, lambda: self._nothing(here.dom.managedSave(0)))

    @staticmethod
    def _nothing(_: object) -> None:
        """libvirt's calls return 0."""
