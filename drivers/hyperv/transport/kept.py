"""What both transports have in common: one script of ours that is kept running on the host and answers in turn.

A request is a JSON text, and so is its answer (see `answer.ps1`); how the two travel is the transport's matter. A call
pays neither for a process start nor for loading the Hyper-V module.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from drivers.hyperv.transport import failures, messages
from drivers.hyperv.transport.failures import NotDelivered, ShellLost
from drivers.hyperv.transport.messages import Answer, Bound

POLL_SECONDS = 20
"""The longest that the host is asked to hold an answer back."""

STALE_SECONDS = 60.0
"""A connection that was idle for longer is made anew before it is used: http.sys drops them after two minutes."""

OUTPUT_BYTES = 64 << 20
"""Of output a pipeline; a list of a thousand VMs with all properties is a tenth of it."""


class KeptScript(ABC):
    """A channel (see `sessions.Channel`) whose script stays open between calls."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._defined: set[str] = set()
        self._used = time.monotonic()

    def run(self, pipeline: Sequence[Bound], until: float) -> Answer:
        try:
            id = self._request(pipeline, until)
        except NotDelivered:
            # nothing of it can have run: once more, in a new shell if the old one is gone
            id = self._request(pipeline, until)
        answer = messages.answer(self._answer(until), id)
        self._used = time.monotonic()
        return answer

    def _request(self, pipeline: Sequence[Bound], until: float) -> int:
        """Send a request, and what it needs first. Raises `NotDelivered` if it cannot have been read."""
        if time.monotonic() - self._used > STALE_SECONDS:
            self._drop_connection()
        self._time_limits(until)
        fresh = not self._running
        if fresh:
            self._forget()
            self._open(until)
        id = next(self._ids)
        missing = [step.name for step in pipeline if step.script and step.name not in self._defined]
        texts = [*(messages.definition(name) for name in dict.fromkeys(missing)), messages.request(id, pipeline)]
        for number, part in enumerate(self._parts(texts)):
            try:
                self._send(part)
            except Exception as error:
                if number > 0 and failures.connection_gone(error):  # what has begun to arrive cannot be begun again
                    raise ShellLost("the connection was lost in the middle of a request") from None
                self._undelivered(error, fresh)
                raise
        self._defined.update(missing)
        return id

    def _undelivered(self, error: Exception, fresh: bool) -> None:
        """Raise `NotDelivered` where `error` says that a kept shell or its connection is gone."""
        if failures.connection_gone(error):
            self._drop_connection()
            raise NotDelivered("the connection was lost while it was not used") from None
        if not fresh and failures.fault_code(error) == failures.SHELL_NOT_FOUND:
            self._forget()
            raise NotDelivered("the shell was gone") from None

    def _time_limits(self, until: float) -> int:
        """Let the next exchange take little longer than what is left, and return that, in seconds; the caller's own
        deadline is the exact one."""
        left = max(1, min(POLL_SECONDS, round(until - time.monotonic())))
        self._limit_exchange(left)
        return left

    @property
    @abstractmethod
    def _running(self) -> bool:
        """Whether the script was started, and is not known to be gone."""

    @abstractmethod
    def _open(self, until: float) -> None:
        """Start the script."""

    @abstractmethod
    def _parts(self, texts: Sequence[bytes]) -> Iterable[bytes]:
        """JSON texts, each with a line's end, as they are sent: so cut that each part fits an exchange."""

    @abstractmethod
    def _send(self, part: bytes) -> None:
        """Send the script one part."""

    @abstractmethod
    def _answer(self, until: float) -> bytes:
        """The script's next answer; raises `HostUnreachable` when none comes in time, `ShellLost` when it has ended."""

    @abstractmethod
    def _limit_exchange(self, seconds: int) -> None:
        """How long the host may hold the next answer back; the connection waits a little longer."""

    @abstractmethod
    def _drop_connection(self) -> None:
        """Close the connection; the next exchange makes a new one, and the script goes on."""

    def _forget(self) -> None:
        """The script is gone."""
        self._defined.clear()
