"""What looks at a migration while it is under way, and stops it."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from conformance.errors import DriverError, HypervisorFailure, Unsupported
from conformance.model import Progress
from conformance.waiting import WaitTimeout, now, until
from drivers.libvirt.binding import lv


class Watch:
    """Looks at a migration's job while another thread waits for it: progress, switch to post-copy, stalls."""

    look_seconds: ClassVar[float] = 0.1

    def __init__(self, dom: Any, *, postcopy: bool, stall_seconds: float, measured: bool = True) -> None:
        self._dom = dom
        self._postcopy = postcopy
        self._stall = stall_seconds
        self._measured = measured
        self._end = threading.Event()
        self._seen = Progress(0.0, "preparing")
        self._moved = (0, now())
        self.switched = False
        self.stalled = False
        self.aborted = False
        self._thread = threading.Thread(target=self._run, name="migration-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def progress(self) -> Progress:
        return self._seen

    @property
    def over(self) -> bool:
        """Whether there is nothing left to look at."""
        return self._end.is_set()

    @property
    def why(self) -> str:
        """Why the migration did not end by itself; empty when nothing was done to it."""
        return "aborted on request" if self.aborted else "given up: nothing was sent any more" if self.stalled else ""

    def _run(self) -> None:
        while not self._end.wait(self.look_seconds):
            try:
                self.look()
            except (DriverError, lv.libvirtError):
                continue  # the domain is on its way; whoever called migrate gets the error that counts

    def look(self) -> None:
        """Look once; what cannot be seen now may be seen the next time."""
        stats = self._dom.jobStats(0)
        if stats.get("type", lv.VIR_DOMAIN_JOB_NONE) == lv.VIR_DOMAIN_JOB_NONE:
            return
        if not self._measured:  # that there is a job is all that libvirt tells
            self._seen = Progress(0.5, "migrating")
            return
        sent, total = stats.get("data_processed", 0), stats.get("data_total", 0)
        phase = "post-copy" if self.switched else "copying" if sent else "preparing"
        self._seen = Progress(min(0.99, sent / total) if total else 0.0, phase)
        if sent != self._moved[0]:
            self._moved = (sent, now())
        elif now() - self._moved[1] > self._stall and not self.switched:
            # QEMU waits for a silently cut connection as long as TCP does, about a quarter of an hour
            self.stalled = True
            self._dom.abortJob()
        if self._postcopy and not self.switched and stats.get("memory_processed", 0) > 0:
            # refused until data flows
            self._dom.migrateStartPostCopy(0)
            self.switched = True

    def abort(self) -> None:
        """Ask libvirt to give the migration up; before its job exists, wait for that."""
        if self.switched:
            raise Unsupported("a post-copy migration cannot go back", capability="migrate.abort", operation="migrate")
        self.aborted = True

        def taken() -> bool:
            try:
                self._dom.abortJob()
            except lv.libvirtError:
                return self.over
            return True

        try:
            until("the migration to be there to abort", taken, seconds=10)
        except WaitTimeout as timeout:
            raise HypervisorFailure(str(timeout), operation="migrate") from None
