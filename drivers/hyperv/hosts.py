"""The hosts of a target, their transports, and what does not change about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

from drivers.hyperv.transport.base import Result, Step, Transport

T = TypeVar("T")


class Hosts:
    """Two transports a host: one for calls, and one whose single session holds the jobs.

    A PowerShell job can be seen only in the session that began it, so everything about jobs goes through one session.

    Args:
        calls: By the lab name of their host, in the target's order.
        jobs: Likewise.
        deadline_s: Seconds for one call to a host; what takes longer is a job there.
    """

    def __init__(self, calls: Mapping[str, Transport], jobs: Mapping[str, Transport], *, deadline_s: float) -> None:
        self._calls = dict(calls)
        self._jobs = dict(jobs)
        self._turns = {host: threading.Lock() for host in self._calls}
        self.deadline_s = deadline_s
        self._lock = threading.Lock()
        self._facts: dict[tuple[str, str], object] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._calls)

    def delegates(self, host: str) -> bool:
        return self._calls[host].delegates

    def ask(self, host: str, pipeline: Sequence[Step], select: Sequence[str], depth: int) -> Result:
        """Run a pipeline in any session."""
        return self._calls[host].invoke(pipeline, select=select, depth=depth, deadline_s=self.deadline_s)

    def ask_in_turn(self, host: str, pipeline: Sequence[Step], select: Sequence[str]) -> Result:
        """Run a pipeline in the session of the jobs."""
        with self._turns[host]:
            return self._jobs[host].invoke(pipeline, select=select, deadline_s=self.deadline_s)

    def once(self, host: str, what: str, ask: Callable[[], T]) -> T:
        """What `ask` gives, asked once a host for as long as the driver lives: facts that do not change."""
        key = (host, what)
        with self._lock:
            if key in self._facts:
                return cast(T, self._facts[key])
        answer = ask()
        with self._lock:
            return cast(T, self._facts.setdefault(key, answer))

    def close(self) -> None:
        for transport in (*self._calls.values(), *self._jobs.values()):
            transport.close()
