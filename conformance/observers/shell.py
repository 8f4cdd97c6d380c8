"""Commands on a lab host: on this machine, inside a nested host's namespaces, or over SSH.

A shell takes an argument list and never a line to be split; what is needed of a shell language is passed as a script
to ``sh -c`` by the caller. Output is bytes, because guests and hosts may print anything.
"""

from __future__ import annotations

import io
import os
import shlex
import signal
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from conformance.errors import HostDown, LabError, LabFileError, ProbeFailed
from conformance.lab import inventory
from conformance.waiting import Deadline

_SHOWN = 400


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
        return SshShell(spec)
    if isinstance(spec, inventory.NamespaceShell):
        return NamespaceShell(spec.pid)
    if isinstance(spec, inventory.WinrmShell):
        raise LabFileError("a shell of kind winrm runs cmdlets, and is for the hosts of a Hyper-V lab only")
    return LocalShell()


class LocalShell(Shell):
    """Commands on this machine."""

    _prefix: tuple[str, ...] = ()

    def run(
        self, argv: Sequence[str], input: bytes | None = None, timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        with self._start(argv, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, quiet=True) as process:
            try:
                out, err = process.communicate(input, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                _end_group(process)
                raise _late(argv, timeout_s, self._where) from None
            except BaseException:
                _end_group(process)
                raise
        return self._judge(Completed(tuple(argv), process.returncode, out, err), check)

    def popen(self, argv: Sequence[str]) -> Process:
        return _LocalProcess(self._start(argv, stdin=subprocess.PIPE, quiet=False))

    @property
    def _where(self) -> str:
        return "this machine"

    def _judge(self, done: Completed, check: bool) -> Completed:
        if check and done.status != 0:
            raise _failed(done, self._where)
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
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._prefix = ("nsenter", "-t", str(pid), "-a", "--")

    @property
    def _where(self) -> str:
        return f"the nested host of process {self.pid}"

    def _judge(self, done: Completed, check: bool) -> Completed:
        if done.status != 0 and (not os.path.exists(f"/proc/{self.pid}/ns/net") or _zombie(self.pid)):  # noqa: PTH110
            raise HostDown(f"{self._where} is gone", hint="hvconform lab up")
        return super()._judge(done, check)


class SshShell(Shell):
    """Commands over SSH, by Tempest's client. One connection, opened at first use and again after it broke.

    Args:
        spec: Where, as whom and with which key.
        through: A shell to the same machine whose connection is used; it outlives this one.
    """

    def __init__(self, spec: inventory.SshShell, through: SshShell | None = None) -> None:
        self.spec = spec
        self._prefix = ("ip", "netns", "exec", spec.netns) if spec.netns else ()
        self._through = through
        self._client: Any = None
        self._lock = threading.Lock()

    @property
    def _where(self) -> str:
        inside = f" (namespace {self.spec.netns})" if self.spec.netns else ""
        return f"{self.spec.user}@{self.spec.address} port {self.spec.port}{inside}"

    def run(
        self, argv: Sequence[str], input: bytes | None = None, timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        # sshd leaves a command behind whose channel was closed, so that the host must end it itself
        channel = self._session(["timeout", "-s", "KILL", f"{timeout_s + 5:g}", *argv])
        deadline = Deadline.after(timeout_s)
        channel.settimeout(timeout_s)
        taken: dict[str, bytes] = {}

        def take(name: str, stream: Any) -> None:
            with suppress(OSError):
                taken[name] = stream.read()

        # both streams at once: a full window of either would stop the command
        readers = [
            threading.Thread(target=take, args=(name, stream), daemon=True)
            for name, stream in (("out", channel.makefile("rb")), ("err", channel.makefile_stderr("rb")))
        ]
        try:
            for reader in readers:
                reader.start()
            with suppress(OSError):  # a command may end without reading its input
                if input:
                    channel.sendall(input)
                channel.shutdown_write()
            for reader in readers:
                reader.join(deadline.left)
            late = any(reader.is_alive() for reader in readers) or len(taken) < len(readers)
            ended = not late and channel.status_event.wait(deadline.left)
            status = channel.exit_status
        finally:
            channel.close()
        if late and deadline.left == 0:
            raise _late(argv, timeout_s, self._where)
        if not ended:
            raise HostDown(f"the connection to {self._where} broke")
        done = Completed(tuple(argv), status, taken["out"], taken["err"])
        if check and status != 0:
            raise _failed(done, self._where)
        return done

    def popen(self, argv: Sequence[str]) -> Process:
        return _SshProcess(self._session(argv))

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _session(self, argv: Sequence[str]) -> Any:
        line = shlex.join([*self._prefix, *argv])
        transport = (self._through or self)._transport()
        try:
            channel = transport.open_session(timeout=15)
            channel.exec_command(line)
        except Exception as error:
            raise HostDown(f"{self._where} did not take a command: {error}", hint="is the host up?") from error
        return channel

    def _transport(self) -> Any:
        with self._lock:
            transport = None if self._client is None else self._client.get_transport()
            if transport is None or not transport.is_active():
                self._client = self._connect()
                transport = self._client.get_transport()
            return transport

    def _connect(self) -> Any:
        # imported here: it costs 0.5 s, and most labs have no SSH
        from tempest.lib import exceptions
        from tempest.lib.common import ssh

        spec = self.spec
        password = None
        if spec.password_env is not None:
            password = os.environ.get(spec.password_env)
            if password is None:
                raise HostDown(
                    f"no password for {self._where}", hint=f"put it into the environment variable {spec.password_env}"
                )
        if spec.key_file is not None and not spec.key_file.is_file():
            raise HostDown(f"no SSH key {spec.key_file} for {self._where}", hint="correct key_file in the lab file")
        client = ssh.Client(
            spec.address,
            spec.user,
            password=password,
            key_filename=None if spec.key_file is None else str(spec.key_file),
            look_for_keys=spec.key_file is None and password is None,
            timeout=10,
            channel_timeout=10,
            port=spec.port,
        )
        hint = f"ssh -p {spec.port} {spec.user}@{spec.address} true"
        try:
            # Tempest takes any host key, so it is looked at before a password is sent; a key gives nothing away
            if password is not None:
                self._check(self._shown_key())
            # Tempest's exec_command takes no input and no bytes; its connection is used, its retries are kept
            connection = client._get_ssh_connection(sleep=0.3, backoff=0.3)
            try:
                self._check(connection.get_transport().get_remote_server_key())
            except LabError:
                connection.close()
                raise
        except LabError:
            raise
        except exceptions.SSHTimeout:
            raise HostDown(f"{self._where} answers, and refuses the key or password", hint=hint) from None
        except Exception as error:
            why = str(error) or type(error).__name__
            raise HostDown(f"{self._where} cannot be reached: {why}", hint=hint) from error
        return connection

    def _shown_key(self) -> Any:
        """The host's key as it shows it."""
        import paramiko

        with socket.create_connection((self.spec.address, self.spec.port), timeout=10) as connection:
            transport = paramiko.Transport(connection)
            try:
                transport.start_client(timeout=10)
                return transport.get_remote_server_key()
            finally:
                transport.close()

    def _check(self, key: Any) -> None:
        """Raise `HostDown` for a host's key that is not the right one."""
        import paramiko

        spec = self.spec
        if spec.host_key is not None:
            known = spec.host_key.split()[:2] == [key.get_name(), key.get_base64()]
        else:
            name = spec.address if spec.port == 22 else f"[{spec.address}]:{spec.port}"
            path = Path.home() / ".ssh" / "known_hosts"
            known = path.is_file() and paramiko.HostKeys(str(path)).check(name, key)
        if not known:
            source = "the lab file" if spec.host_key is not None else "~/.ssh/known_hosts"
            raise HostDown(
                f"{self._where} shows a {key.get_name()} host key that is not the one in {source}",
                hint=f"compare with `ssh-keyscan -t {key.get_name()} -p {spec.port} {spec.address}`, then set host_key",
            )


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


class _Received(io.RawIOBase):
    """What a channel brings, as it comes: paramiko's own file waits until a read is full."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data: bytes = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _SshProcess:
    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.stdin: IO[bytes] = channel.makefile_stdin("wb", 0)
        self.stdout = cast(IO[bytes], _Received(channel))

    def poll(self) -> int | None:
        return self._channel.recv_exit_status() if self._channel.exit_status_ready() else None

    def close(self) -> None:
        # sshd hangs up on the command when its channel closes; a command must end at the end of its input
        self._channel.close()


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


def _late(argv: Sequence[str], timeout_s: float, where: str) -> ProbeFailed:
    return ProbeFailed(f"{shlex.join(argv)[:_SHOWN]} did not end within {timeout_s:g} s on {where}")


def _failed(done: Completed, where: str) -> ProbeFailed:
    said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")[-_SHOWN:]
    return ProbeFailed(f"{shlex.join(done.argv)[:_SHOWN]} ended with status {done.status} on {where}: {said}")
