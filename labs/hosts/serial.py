"""The serial channel: the guest agent over a VM's first serial console, from whichever host runs it."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from conformance.errors import GuestSilent, LabError
from conformance.shells.shell import Process
from conformance.waiting import WaitTimeout, until
from labs.hosts.probe import Console, ShellHostProbe

_MARK = b"\x02HVC "
_BUFFER = 256 * 1024

# Each ends the other, with the whole process group: over SSH only the end of the input tells the host that nobody
# listens any more, and only the end of the output tells us that the VM's end of the line has gone.
_RELAY = 'stty -F "$1" raw -echo; { cat "$1"; kill 0; } 2>/dev/null & cat 2>/dev/null > "$1"; kill 0'


class SerialChannel:
    """Asks the agent over the pseudo-terminal that the hypervisor holds for the VM. One request at a time.

    The terminal is looked for once and kept until its other end goes, as with a migration, or an answer stays out.

    Requests carry ids that no other channel gives: a pseudo-terminal may hold answers that nobody has read yet.

    Args:
        probes: The hosts' probes.
        uuid: The VM's.
    """

    def __init__(self, probes: Callable[[], Sequence[ShellHostProbe]], uuid: str) -> None:
        self._probes = probes
        self._uuid = uuid.lower()
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._channel = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def ask(self, line: str, timeout_s: float) -> str:
        with self._lock:
            number = f"{self._channel}{next(self._numbers)}".encode()
            relay = self._open()
            relay.send(_MARK + number + b" " + line.encode("ascii") + b"\n")
            try:
                reply = until(
                    "the serial console's reply", lambda: relay.reply(number), seconds=timeout_s, interval=0.01
                )
            except WaitTimeout:
                self._drop()  # the guest may be somewhere else by now
                raise GuestSilent(
                    f"no answer over the serial console of {self._uuid} to {line[:60]!r} within {timeout_s:g} s"
                ) from None
            return (reply or b"").decode(errors="replace")

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _open(self) -> _Line:
        if self._line is not None and not self._line.ended:
            return self._line
        self._drop()
        probe, console = self._find()
        self._line = _Line(probe.shell.popen(["sh", "-c", _RELAY, "sh", console.path]))
        return self._line

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _find(self) -> tuple[ShellHostProbe, Console]:
        found: list[tuple[ShellHostProbe, Console]] = []
        for probe in self._probes():
            with suppress(LabError):  # a host that is down runs nothing
                console = probe.console(self._uuid)
                if console is not None:
                    found.append((probe, console))
        if not found:
            raise GuestSilent(f"no host runs {self._uuid} with a serial console that can be opened")
        # in the middle of a migration there are two: the one that is not paused runs
        return min(found, key=lambda item: item[1].paused)


class _Line:
    def __init__(self, process: Process) -> None:
        self.ended = False
        self._process = process
        self._seen = b""
        self._thread = threading.Thread(target=self._read, name="serial console", daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError as error:
            self.ended = True
            raise GuestSilent(f"the serial console closed: {error}") from None

    def reply(self, number: bytes) -> bytes | None:
        head = _MARK + number + b" "
        # the terminal may echo the request; a reply is JSON
        for line in reversed(self._seen.replace(b"\r", b"\n").split(b"\n")[:-1]):
            at = line.rfind(head + b"{")
            if at >= 0:
                return line[at + len(head) :]
        return None

    def close(self) -> None:
        self._process.close()
        self._thread.join(timeout=5)

    def _read(self) -> None:
        with suppress(OSError, ValueError):
            while chunk := self._process.stdout.read(65536):
                self._seen = (self._seen + chunk)[-_BUFFER:]
        self.ended = True
