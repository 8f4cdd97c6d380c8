"""A POSIX shell that stays and runs one script after the other: to start one takes longer than many a script."""

from __future__ import annotations

import re
import secrets
import shlex
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from conformance.waiting import Deadline


class Session(Protocol):
    """A `sh` that reads what it shall do, and its streams. They raise `TimeoutError`, or `OSError` when it is gone."""

    @property
    def alive(self) -> bool:
        """As far as is known here."""
        ...

    def send(self, data: bytes, seconds: float) -> None: ...

    def receive(self, seconds: float) -> bytes:
        """Some of its standard output; nothing at its end."""
        ...

    def receive_errors(self, seconds: float) -> bytes:
        """Some of its standard error; nothing at its end."""
        ...

    def kill(self, group: int) -> None:
        """End it and the script that it runs: all of the process group; 0 where that is not known. Reads end, too."""
        ...

    def close(self) -> None:
        """End it, who waits for something to do or was killed."""
        ...


class Interpreter:
    """Runs scripts, each in a subshell of its own with nothing to read. For one thread at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # what stands at the end of an output: no script knows it
        self._token = f"@{secrets.token_hex(8)}"
        self._end = re.compile(rb"%s (\d+)\n\Z" % self._token.encode())
        self._errors = ThreadPoolExecutor(1)
        self._group = 0

    @property
    def alive(self) -> bool:
        return self._session.alive

    def run(self, text: str, args: Sequence[str], deadline: Deadline) -> tuple[int, bytes, bytes]:
        """Run a script to its end.

        Returns:
            Its exit status, its standard output and its standard error.

        Raises:
            TimeoutError: The deadline passed; the script may run on.
            OSError: The connection or the shell is gone.
        """
        if not self._group:
            self._say(f"printf '{self._token} %d\\n' $$", deadline)
            _, self._group = self._take(self._session.receive, deadline)
        script = f"set -- {shlex.join(args)}; eval {shlex.quote(text)}"
        self._say(
            f"( {script} ) </dev/null; set -- $?; printf '{self._token} %d\\n' $1; printf '{self._token} 0\\n' >&2",
            deadline,
        )
        # both at once: a full window of either would stop the script
        errors = self._errors.submit(self._take, self._session.receive_errors, deadline)
        out, status = self._take(self._session.receive, deadline)
        return status, out, errors.result()[0]

    def _say(self, line: str, deadline: Deadline) -> None:
        self._session.send(f"{line}\n".encode(), max(deadline.left, 0.001))

    def _take(self, receive: Callable[[float], bytes], deadline: Deadline) -> tuple[bytes, int]:
        """An output up to the token, and the number behind that."""
        taken = bytearray()
        while not (found := self._end.search(taken, max(0, len(taken) - 64))):
            if deadline.left == 0:  # also of one that writes and writes
                raise TimeoutError
            piece = receive(deadline.left)
            if not piece:
                raise ConnectionError("the shell ended")
            taken += piece
        return bytes(taken[: found.start()]), int(found[1])

    def close(self) -> None:
        """End it, who waits for a script."""
        self._session.close()
        self._errors.shutdown(wait=False)

    def kill(self) -> None:
        """End it and what it runs."""
        self._session.kill(self._group)
        self._errors.shutdown()  # nobody shall read from what is closed now
        self._session.close()


class Interpreters:
    """Those of one place. One stays when nobody uses it, and no more: sshd allows ten sessions a connection, of which
    consoles and peers need some. Safe to use from several threads.

    Args:
        begin: Opens a session.
    """

    def __init__(self, begin: Callable[[], Session]) -> None:
        self._begin = begin
        self._idle: Interpreter | None = None
        self._lock = threading.Lock()

    def run(self, text: str, args: Sequence[str], seconds: float) -> tuple[int, bytes, bytes]:
        """As `Interpreter.run`; nothing of a script that was given up runs on."""
        interpreter = self._take()
        try:
            done = interpreter.run(text, args, Deadline.after(seconds))
        except BaseException:
            interpreter.kill()
            raise
        with self._lock:
            self._idle, spare = interpreter, self._idle
        if spare is not None:
            spare.close()
        return done

    def _take(self) -> Interpreter:
        """One that nobody uses."""
        with self._lock:
            found, self._idle = self._idle, None
        if found is not None:
            if found.alive:
                return found
            found.close()
        return Interpreter(self._begin())

    def close(self) -> None:
        with self._lock:
            found, self._idle = self._idle, None
        if found is not None:
            found.close()
