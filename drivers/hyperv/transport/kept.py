"""What both transports have in common: one script of ours that is kept running on the host and answers in turn.

A request is a JSON text, and so is its answer (see `answer.ps1`); how the two are wrapped is the transport's matter. A
call pays neither for a process start nor for loading the Hyper-V module: it is one Send and mostly one Receive.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from conformance.errors import HypervisorFailure
from drivers.hyperv.transport import envelopes, failures, messages
from drivers.hyperv.transport.envelopes import Action, Envelope, Received
from drivers.hyperv.transport.failures import NotDelivered, ShellLost
from drivers.hyperv.transport.messages import Answer, Bound

POLL_SECONDS = 20
"""The longest that the host is asked to hold an answer back."""

STALE_SECONDS = 60.0
"""A connection that was idle for longer is made anew before it is used: http.sys drops them after two minutes."""

OUTPUT_BYTES = 64 << 20
"""Of output a pipeline; a list of a thousand VMs with all properties is a tenth of it."""


def bounded(size: int) -> None:
    """Raise `HypervisorFailure` when an answer has grown too large."""
    if size > OUTPUT_BYTES:
        raise HypervisorFailure(f"the pipeline wrote more than {OUTPUT_BYTES >> 20} MiB")


class KeptScript(ABC):
    """A channel (see `sessions.Channel`) whose script stays open between calls."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._defined: set[str] = set()
        self._envelopes: dict[tuple[Action, int], Envelope] = {}
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
                self._send(part, until)
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

    def _send(self, part: bytes, until: float) -> None:
        """Send the script one part of its input."""
        envelope = self._written("Send", self._time_limits(until))
        id, message = envelope.filled(part)
        envelopes.related(self._post(message), id)

    def _receive(self, until: float) -> Received:
        """What the script has written meanwhile; nothing when it writes nothing for as long as the host may wait."""
        envelope = self._written("Receive", self._time_limits(until))
        id, message = envelope.filled()
        try:
            answer = self._post(message)
        except Exception as error:
            if failures.fault_code(error) == failures.OPERATION_TIMEOUT:
                return Received()
            raise
        return envelopes.received(answer, id)

    def _written(self, action: Action, seconds: int) -> Envelope:
        key = (action, seconds)
        if key not in self._envelopes:
            self._envelopes[key] = self._write(action)
        return self._envelopes[key]

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
    def _write(self, action: Action) -> Envelope:
        """The library's message to the script that runs, with the limits that are set."""

    @abstractmethod
    def _post(self, message: bytes) -> bytes:
        """Exchange a message for its answer; raises what the library makes of a fault."""

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
        self._envelopes.clear()
