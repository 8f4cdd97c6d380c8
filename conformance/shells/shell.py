"""Commands on a lab host: on this machine, inside a nested host's namespaces, or over SSH.

A shell takes an argument list and never a line to be split; what is needed of a shell language is passed as a script
to ``sh -c`` by the caller. Output is bytes, because guests and hosts may print anything.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol, cast

from conformance.errors import HostDown, LabFileError, ProbeFailed
from conformance.lab import inventory
from conformance.shells.interpreter import Interpreters

_SHOWN = 400
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended. `status` is its exit status; negative means the signal that ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are no UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")


class Process(Protocol):
    """A command that runs. Its standard error is the runner's own."""

    @property
    def stdin(self) -> IO[bytes]: ...

    @property
    def stdout(self) -> IO[bytes]:
        """Unbuffered: `read(n)` returns what is there, at most n bytes, and b"" at the end."""
        ...

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        ...

    def close(self) -> None:
        """End it, and whatever it started on the host."""
        ...


class Shell(ABC):
    """Runs commands in one place. Safe to use from several threads."""

    @abstractmethod
    def run(
        self, argv: Sequence[str], input: bytes | None = None, timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        """Run a command to its end.

        Raises:
            HostDown: The place itself cannot be reached.
            ProbeFailed: The command did not end in time, or (with `check`) its exit status is not 0.
        """

    @abstractmethod
    def popen(self, argv: Sequence[str]) -> Process:
        """Start a command with pipes; raises `HostDown`."""

    def script(self, text: str, *args: str, timeout_s: float = 30.0, check: bool = True) -> Completed:
        """Run a POSIX shell script; `args` are its $1, $2, ..."""
        return self.run(["sh", "-c", text, "sh", *args], timeout_s=timeout_s, check=check)

    def close(self) -> None:  # noqa: B027 - most shells hold nothing
        """Drop the connection, where there is one."""


def open_shell(spec: inventory.Shell) -> Shell:
    """The shell that a lab file describes; nothing is contacted yet."""
    if isinstance(spec, inventory.SshShell):
        # here, for a local shell needs none of it
        from conformance.shells.ssh import SshShell

        return SshShell(spec)
    if isinstance(spec, inventory.NamespaceShell):
        return NamespaceShell(spec.pid, stays=True)
    if isinstance(spec, inventory.WinrmShell):
        raise LabFileError("a shell of kind winrm runs cmdlets, and is for the hosts of a Hyper-V lab only")
    return LocalShell(stays=True)


class LocalShell(Shell):
    """Commands on this machine.

    Args:
        stays: Scripts are run by an interpreter that stays until this is closed.
    """

    _prefix: tuple[str, ...] = ()

    def __init__(self, *, stays: bool = False) -> None:
        self._interpreters = Interpreters(self._begin) if stays else None

    def _begin(self) -> _PipedSession:
        return _PipedSession(self._start(["sh"], stdin=subprocess.PIPE, quiet=True))

    def run(
        self, argv: Sequence[str], input: bytes | None = None, timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        with self._start(argv, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, quiet=True) as process:
            try:
                out, err = process.communicate(input, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                _end_group(process)
                raise late(argv, timeout_s, self._where) from None
            except BaseException:
                _end_group(process)
                raise
        return self._judge(Completed(tuple(argv), process.returncode, out, err), check)

    def script(self, text: str, *args: str, timeout_s: float = 30.0, check: bool = True) -> Completed:
        if self._interpreters is None:
            return super().script(text, *args, timeout_s=timeout_s, check=check)
        try:
            done = interpret(self._interpreters, text, args, timeout_s, self._where)
        except OSError:  # it was ended, and by whom only the host can tell
            done = Completed(("sh", "-c", text, "sh", *args), -signal.SIGKILL, b"", b"the shell ended")
        return self._judge(done, check)

    def close(self) -> None:
        if self._interpreters is not None:
            self._interpreters.close()

    def popen(self, argv: Sequence[str]) -> Process:
        return _LocalProcess(self._start(argv, stdin=subprocess.PIPE, quiet=False))

    @property
    def _where(self) -> str:
        return "this machine"

    def _judge(self, done: Completed, check: bool) -> Completed:
        if check and done.status != 0:
            raise failed(done, self._where)
        return done

    def _start(self, argv: Sequence[str], *, stdin: int, quiet: bool) -> subprocess.Popen[bytes]:
        try:
            # a session of its own: nsenter leaves its child behind when it is killed, the process group catches both
            return subprocess.Popen(
                [*self._prefix, *argv],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if quiet else None,
                bufsize=0,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ProbeFailed(f"no command {error.filename!r} on {self._where}", hint="install it") from None


class NamespaceShell(LocalShell):
    """Commands inside all namespaces of a process: a host or a peer of a nested lab.

    Args:
        pid: A process of that host, as seen from here.
        stays: See `LocalShell`.
    """

    def __init__(self, pid: int, *, stays: bool = False) -> None:
        super().__init__(stays=stays)
        self.pid = pid
        self._prefix = ("nsenter", "-t", str(pid), "-a", "--")

    @property
    def _where(self) -> str:
        return f"the nested host of process {self.pid}"

    def _judge(self, done: Completed, check: bool) -> Completed:
        if done.status != 0 and (not os.path.exists(f"/proc/{self.pid}/ns/net") or _zombie(self.pid)):  # noqa: PTH110
            raise HostDown(f"{self._where} is gone", hint="hvconform lab up")
        return super()._judge(done, check)


class _PipedSession:
    """A shell whose streams are pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._in, self._out, self._err = (each.fileno() for each in (process.stdin, process.stdout, process.stderr))
        os.set_blocking(self._in, False)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, data: bytes, seconds: float) -> None:
        left = memoryview(data)
        while left:
            _ready(self._in, select.POLLOUT, seconds)
            left = left[os.write(self._in, left) :]

    def receive(self, seconds: float) -> bytes:
        _ready(self._out, select.POLLIN, seconds)
        return os.read(self._out, _PIECE)

    def receive_errors(self, seconds: float) -> bytes:
        _ready(self._err, select.POLLIN, seconds)
        return os.read(self._err, _PIECE)

    def kill(self, group: int) -> None:  # noqa: ARG002 - the process group is known here, by another number
        _end_group(self._process)

    def close(self) -> None:
        self._process.__exit__(None, None, None)  # closes its pipes, so that it ends, and waits for that


def _ready(stream: int, event: int, seconds: float) -> None:
    """Wait until a stream can be read or written."""
    found = select.poll()
    found.register(stream, event)
    if not found.poll(seconds * 1000):
        raise TimeoutError


class _LocalProcess:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.stdin = cast(IO[bytes], process.stdin)
        self.stdout = cast(IO[bytes], process.stdout)

    def poll(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        with suppress(OSError):
            self.stdin.close()
        _end_group(self._process)
        self.stdout.close()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rsplit(b")", 1)[1].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def interpret(interpreters: Interpreters, text: str, args: Sequence[str], timeout_s: float, where: str) -> Completed:
    """Have an interpreter that stays run a script; raises `ProbeFailed` when late, `OSError` when the shell is gone."""
    argv = ("sh", "-c", text, "sh", *args)
    try:
        return Completed(argv, *interpreters.run(text, args, timeout_s))
    except TimeoutError:
        raise late(argv, timeout_s, where) from None


def late(argv: Sequence[str], timeout_s: float, where: str) -> ProbeFailed:
    """A command that did not end in time."""
    return ProbeFailed(f"{shlex.join(argv)[:_SHOWN]} did not end within {timeout_s:g} s on {where}")


def failed(done: Completed, where: str) -> ProbeFailed:
    """A command that ended with an error."""
    said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")[-_SHOWN:]
    return ProbeFailed(f"{shlex.join(done.argv)[:_SHOWN]} ended with status {done.status} on {where}: {said}")
