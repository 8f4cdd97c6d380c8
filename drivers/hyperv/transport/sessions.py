"""Sessions on one host: each with a thread of its own, handed out to one call at a time, given up at a deadline.

Neither pywinrm nor pypsrp may be used by two threads at once, and neither has a time limit that holds: a read timeout
starts anew with every byte. So a session's library calls run in its own thread. The caller waits as long as its
deadline allows, then breaks the session's connection and has its shell deleted over another one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Protocol, TypeVar

from conformance.errors import DriverError, HostUnreachable, LabError
from drivers.hyperv import errors
from drivers.hyperv.transport import failures
from drivers.hyperv.transport.base import Result, Step
from drivers.hyperv.transport.messages import Answer, Bound, bind, describe
from drivers.hyperv.transport.settings import Secret

T = TypeVar("T")

CLEANUP_SECONDS = 10.0
"""How long the shell of a broken session may take to be deleted; after that the host's idle timeout ends it."""

END_SECONDS = 3.0
"""How long an aborted call may take to notice."""


UNCONFIRMED_TRIES, UNCONFIRMED_SECONDS = 6, 0.5
"""How often a shell is looked for whose making was given up, and the pause between."""


class Late(Exception):
    """The work has not ended in time."""


class Channel(Protocol):
    """A shell or a runspace pool on the host. Used from one thread, but for `abort`."""

    def run(self, pipeline: Sequence[Bound], until: float) -> Answer:
        """Run a pipeline, opening the shell where there is none.

        Args:
            until: When to give up, by `time.monotonic`.
        """
        ...

    def abort(self) -> None:
        """Make a call that is under way end, from another thread. The channel is good for `discard` only after it."""
        ...

    def discard(self) -> None:
        """Delete the shell over a new connection, if it was made. Called last, in any state."""
        ...


def delete_all(shells: Mapping[str, bool], delete: Callable[[str], None]) -> None:
    """Delete the shells that a channel has made.

    Args:
        shells: By id, whether the host has confirmed that it made it. One that was given up while it was being made may
            come into being after it was deleted, so it is asked for a few times more.
        delete: Deletes one; raises pywinrm's or pypsrp's fault where the host has none of this id.
    """
    pause = threading.Event()
    for shell, confirmed in shells.items():
        for _ in range(1 if confirmed else UNCONFIRMED_TRIES):
            try:
                delete(shell)
            except Exception as error:
                if failures.fault_code(error) is None:
                    raise
            else:
                break
            if not confirmed:
                pause.wait(UNCONFIRMED_SECONDS)  # real time, which a simulated clock has no part in


class _Session:
    """A channel and the one thread that touches it."""

    def __init__(self, channel: Channel, host: str) -> None:
        self.channel = channel
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # daemon: a library call that never returns must not keep the process alive
        self._thread = threading.Thread(target=self._run, name=f"winrm-{host}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def call(self, work: Callable[[], T], seconds: float) -> T:
        """Do `work` in the session's thread; raises `Late` if it has not ended in time."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                future.set_exception(error)

        self._work.put(run)
        if not wait([future], max(0.0, seconds)).done:
            raise Late
        return future.result()

    def end(self) -> None:
        """Let the thread end, which it does at once when the channel was aborted."""
        self._work.put(None)
        self._thread.join(END_SECONDS)


class Sessions:
    """A `Transport`: hands pipelines to sessions, of which it opens as many as are used at once.

    Args:
        host: The lab name of the host.
        make: Makes a channel; contacts nobody yet.
        secret: The password, which is kept out of every error.
        limit: At most so many sessions at once; a call that finds them all busy waits.
        check: Called with each element of a pipeline before anything is sent; raises for a mistake of the driver.
        delegates: Whether the login can be passed on.
    """

    def __init__(
        self,
        host: str,
        make: Callable[[], Channel],
        *,
        secret: Secret,
        limit: int = 8,
        delegates: bool = False,
        check: Callable[[Step], None] = lambda _: None,
    ) -> None:
        self._host = host
        self._make = make
        self._secret = secret
        self._limit = limit
        self._delegates = delegates
        self._check = check
        self._state = threading.Condition()
        self._idle: list[_Session] = []
        self._busy: set[_Session] = set()
        self._cleaning: set[threading.Thread] = set()
        self._closed = False

    @property
    def host(self) -> str:
        return self._host

    @property
    def delegates(self) -> bool:
        return self._delegates

    def invoke(
        self, pipeline: Sequence[Step], *, select: Sequence[str] = (), depth: int = 2, deadline_s: float
    ) -> Result:
        until = time.monotonic() + deadline_s
        what = describe(pipeline)
        for step in pipeline:
            self._check(step)
        bound = bind(pipeline, select, depth)
        session = self._take(until, what, deadline_s)
        healthy = False
        try:
            answer = session.call(lambda: session.channel.run(bound, until), until - time.monotonic())
            healthy = True
        except Late:
            raise failures.too_late(what, deadline_s, "no answer", self._host) from None
        except Exception as error:  # noqa: BLE001 - what the libraries raise over nonsense has no common class
            made = self._translated(error)
            if time.monotonic() >= until and not isinstance(made, LabError):
                made = failures.too_late(what, deadline_s, str(made), self._host)
            # without the library's own, whose text we do not know and which may repeat what was sent
            raise made from None
        finally:
            self._give_back(session, healthy)
        if answer.error is not None:
            answer.error.message = self._secret.scrub(answer.error.message)
            answer.error.args = (answer.error.message,)
            raise errors.translate(answer.error, host=self._host)
        return answer.result

    def _translated(self, error: Exception) -> DriverError | LabError:
        return failures.translate(error, host=self._host, secret=self._secret)

    def _take(self, until: float, what: str, deadline_s: float) -> _Session:
        """A session for one call; the one used last, whose connection is the likeliest to be alive."""
        with self._state:
            while not self._idle and len(self._busy) >= self._limit and not self._closed:
                if not self._state.wait(max(0.0, until - time.monotonic())):
                    raise failures.too_late(what, deadline_s, f"all {self._limit} sessions are busy", self._host)
            if self._closed:
                raise HostUnreachable("the transport is closed", host=self._host)
            session = self._idle.pop() if self._idle else _Session(self._make(), self._host)
            self._busy.add(session)
            return session

    def _give_back(self, session: _Session, healthy: bool) -> None:
        with self._state:
            self._busy.discard(session)
            if healthy and not self._closed:
                self._idle.append(session)
            else:
                self._discard(session)
            self._state.notify()

    def _discard(self, session: _Session) -> None:
        """Delete a session's shell in the background: over a fresh connection, for its own may hang."""

        def work() -> None:
            session.channel.abort()
            session.end()
            try:
                session.channel.discard()
            except Exception as error:  # noqa: BLE001 - the shell that cannot be deleted ends by its idle timeout
                self._translated(error)
            with self._state:
                self._cleaning.discard(thread)

        thread = threading.Thread(target=work, name=f"winrm-{self._host}-cleanup", daemon=True)
        self._cleaning.add(thread)
        thread.start()

    def close(self) -> None:
        with self._state:
            self._closed = True
            for session in self._idle:
                self._discard(session)
            self._idle.clear()
            cleaning = list(self._cleaning)
            self._state.notify_all()
        until = time.monotonic() + CLEANUP_SECONDS
        for thread in cleaning:
            thread.join(max(0.0, until - time.monotonic()))
