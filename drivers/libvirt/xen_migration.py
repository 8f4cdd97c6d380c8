"""Migration on Xen, where the target's options give a way into dom0: libxl tells neither how far one is nor can it be
stopped, and leaves a guest that it could not send suspended; what libvirt cannot see of all that, the toolstack shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from conformance.errors import HypervisorFailure
from conformance.model import Progress
from conformance.waiting import WaitTimeout, now, until
from drivers.libvirt.base import Located
from drivers.libvirt.toolstack import REBOOT, SUSPEND, Domain, Toolstack
from drivers.libvirt.watch import Watch

_ASK_SECONDS = 2.0
"""How often `xl` is asked for the guest: that starts a process on a host that has enough to do."""

_END_SECONDS = 5.0
"""How long the sender may take to see that nobody receives."""

_NOTICE_SECONDS = 5.0
"""How long libvirt may take to notice what became of a guest."""


@dataclass(frozen=True, slots=True)
class Way:
    """From where to where a VM is sent, and how much of it there is."""

    uuid: str
    source: str
    target: str
    bytes: int


class Transfer(Watch):
    """Looks at the process that sends a VM: progress, stalls, and a guest that ends while it is sent."""

    look_seconds: ClassVar[float] = 0.2

    def __init__(self, toolstack: Toolstack, way: Way, dom: Any, *, stall_seconds: float) -> None:
        super().__init__(dom, postcopy=False, stall_seconds=stall_seconds)
        self._toolstack = toolstack
        self._way = way
        self._id = dom.ID()
        self._sender: int | None = None
        self._asked = now()
        self.ended = ""

    def look(self) -> None:
        if self._sender is None:
            self._sender = self._toolstack.helper(self._way.source, self._id)
        if self._sender is None:
            return
        moved = self._toolstack.moved(self._way.source, self._sender)
        if moved is None:
            return  # sent; what the target does now is not to be seen from here
        if moved > self._moved[0]:
            self._moved = (moved, now())
            self._seen = Progress(min(0.99, moved / self._way.bytes), "copying")
        if now() - self._asked < _ASK_SECONDS or self.aborted or self.stalled:
            return
        self._asked = now()
        found = self._toolstack.domain(self._way.source, self._way.uuid)
        self.ended = _what_became(found)
        if self.ended:
            self._despair(gone=found is None)
        elif now() - self._moved[1] > self._stall:
            self.stalled = True
            self._stop()

    def abort(self) -> None:
        """Stop the transfer; before it has begun, wait for that."""
        self.aborted = True
        try:
            until("the migration to be there to abort", lambda: self._sender or self.over, seconds=10)
            self._stop()
        except WaitTimeout as timeout:
            raise HypervisorFailure(str(timeout), operation="migrate") from None

    def _stop(self) -> None:
        """End the receiver, so that libxl takes away there what it has made, and the sender if it does not see that."""
        tools, way, sender = self._toolstack, self._way, self._sender
        arriving = tools.domain(way.target, way.uuid)
        receiver = None if arriving is None else tools.helper(way.target, arriving.id)
        if receiver is not None:
            tools.kill(way.target, receiver)
        if sender is None:
            return
        try:
            until("the sender to end", lambda: tools.moved(way.source, sender) is None, seconds=_END_SECONDS)
        except WaitTimeout:
            if not tools.asks(way.source, sender):
                tools.kill(way.source, sender)

    def _despair(self, *, gone: bool) -> None:
        """Have libxl give up a guest that has ended, and soon: libvirt looks at what became of it for 30 s only."""
        assert self._sender is not None
        if self._toolstack.asks(self._way.source, self._sender):
            self._toolstack.answer(self._way.source, self._id, gone=gone)
        else:
            self._toolstack.kill(self._way.source, self._sender)

    @property
    def why(self) -> str:
        return self.ended or super().why


def _what_became(domain: Domain | None) -> str:
    """Why a guest cannot be sent any more; empty while it can."""
    if domain is None or domain.dying:
        return "the VM ended while it was sent"
    if domain.why is None or domain.why == SUSPEND:
        return ""
    return "the guest rebooted while it was sent" if domain.why == REBOOT else "the guest shut down while it was sent"


def mend(toolstack: Toolstack, here: Located) -> None:
    """After a migration that failed: make the source's domain, and what libvirt says of it, what the guest wanted.

    libvirt 9.0 leaves a guest suspended that it could not send, and forgets one that ended meanwhile: it waits 30 s for
    the migration to end before it looks, and not again after that.
    """

    def look() -> Domain | None:
        return toolstack.domain(here.host, here.vm)

    found = look()
    if found is not None and found.why == SUSPEND and not found.dying:
        toolstack.resume(here.host, found.id)
        return
    if not _what_became(found):
        return
    try:
        until(
            "libvirt to notice",
            look,
            lambda seen: not _what_became(seen) or not here.active,
            seconds=_NOTICE_SECONDS,
        )
    except WaitTimeout:
        here.dom.destroy()
        if found is not None and found.why == REBOOT and not found.dying:
            here.dom.create()
