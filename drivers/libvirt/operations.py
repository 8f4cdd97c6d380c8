"""Operations of this driver: one at a time on a VM, and asking a guest, which may never follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from conformance.driver import Running
from conformance.errors import Busy, DriverError, Timeout

OVERRIDE_SECONDS = 5.0
"""How long a forced stop waits for a request to the guest to stand down."""


class Locks:
    """At most one operation on an object within this process; between processes libvirt's own job locks do the same."""

    def __init__(self) -> None:
        self._guard = threading.Condition()
        self._held: dict[str, str] = {}
        self._asks: dict[str, threading.Event] = {}
        self._then: Callable[[], None] | None = None

    def acquire(self, key: str, operation: str, *, override: bool = False) -> None:
        """Take the object, or raise `Busy` at once.

        Args:
            override: Make a request that only waits for the guest stand down first.
        """
        with self._guard:
            if override and key in self._asks:
                self._asks[key].set()
                self._guard.wait_for(lambda: key not in self._held, timeout=OVERRIDE_SECONDS)
            self._refuse(key, operation)
            self._held[key] = operation

    def check(self, key: str, operation: str) -> None:
        """Raise `Busy` while an operation of this process is under way on the object."""
        with self._guard:
            self._refuse(key, operation)

    def _refuse(self, key: str, operation: str) -> None:
        if key in self._held:
            raise Busy(f"{self._held[key]} is under way", operation=operation, vm=key)

    def release(self, key: str) -> None:
        with self._guard:
            self._held.pop(key, None)
            self._asks.pop(key, None)
            self._guard.notify_all()
            then = None if self._held else self._then
        if then is not None:
            then()

    def when_idle(self, then: Callable[[], None]) -> None:
        """Do `then` when nothing is under way: at once, or when the last operation has ended.

        A connection must not be closed under a call that blocks in it: libvirt-python would crash the process.
        """
        with self._guard:
            self._then = then
            idle = not self._held
        if idle:
            then()

    def asking(self, key: str) -> threading.Event:
        """Note that the holder only waits for the guest; the event tells it to stand down."""
        with self._guard:
            return self._asks.setdefault(key, threading.Event())

    @contextmanager
    def hold(self, key: str, operation: str) -> Iterator[None]:
        self.acquire(key, operation)
        try:
            yield
        finally:
            self.release(key)


class Asked(Running[None]):
    """A request to the guest. When its deadline passes the request stands down, so that a guest which follows later
    is not mistaken for one that was asked to power off by whatever comes next."""

    stand_down: threading.Event

    def wait(self, deadline_s: float | None = None) -> None:
        try:
            super().wait(deadline_s)
        except Timeout as timeout:
            self.stand_down.set()
            try:
                super().wait(OVERRIDE_SECONDS)
            except DriverError:
                raise Timeout(
                    "the guest was asked to power off and did not",
                    phase="waiting for the guest to power off",
                    last_state="running",
                    operation=timeout.operation,
                    vm=timeout.vm,
                ) from None
            # it ended well after all, in the last moment
