"""A POSIX shell at the other end of an SSH channel that runs one script after the other."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conformance.waiting import Deadline

_PIECE = 1 << 16


class Interpreter:
    """Runs scripts, each in a subshell of its own with nothing to read. For one thread at a time.

    Args:
        channel: Of a session in which `sh` reads what it shall do.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        # what stands at the end of an output: no script knows it
        self._token = f"@{secrets.token_hex(8)}"
        self._end = re.compile(rb"%s (\d+)\n\Z" % self._token.encode())
        self._errors = ThreadPoolExecutor(1)
        self.group = 0
        """The process group on the host of all that runs here; 0 until it is known."""

    @property
    def alive(self) -> bool:
        """As far as is known here."""
        return not self._channel.closed and not self._channel.eof_received and self._channel.get_transport().is_active()

    def run(self, text: str, args: Sequence[str], deadline: Deadline) -> tuple[int, bytes, bytes]:
        """Run a script to its end.

        Returns:
            Its exit status, its standard output and its standard error.

        Raises:
            TimeoutError: The deadline passed; the script may run on, in `group`.
            OSError: The connection or the shell is gone.
        """
        if not self.group:
            self._say(f"printf '{self._token} %d\\n' $$", deadline)
            _, self.group = self._take(self._channel.recv, deadline)
        script = f"set -- {shlex.join(args)}; eval {shlex.quote(text)}"
        self._say(
            f"( {script} ) </dev/null; set -- $?; printf '{self._token} %d\\n' $1; printf '{self._token} 0\\n' >&2",
            deadline,
        )
        # both at once: a full window of either would stop the script
        errors = self._errors.submit(self._take, self._channel.recv_stderr, deadline)
        out, status = self._take(self._channel.recv, deadline)
        return status, out, errors.result()[0]

    def _say(self, line: str, deadline: Deadline) -> None:
        self._channel.settimeout(max(deadline.left, 0.001))
        self._channel.sendall(f"{line}\n".encode())

    def _take(self, receive: Callable[[int], bytes], deadline: Deadline) -> tuple[bytes, int]:
        """An output up to the token, and the number behind that."""
        taken = bytearray()
        while not (found := self._end.search(taken, max(0, len(taken) - 64))):
            piece = receive(_PIECE)
            if not piece:
                raise ConnectionError("the shell ended")
            if deadline.left == 0:  # it writes and writes
                raise TimeoutError
            taken += piece
        return bytes(taken[: found.start()]), int(found[1])

    def close(self) -> None:
        """End it; a script that runs on is not ended by this."""
        self._channel.close()
        self._errors.shutdown(wait=False)
