"""Shells over SSH."""

from __future__ import annotations

import io
import os
import shlex
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from conformance.errors import HostDown, LabError, LoginRefused
from conformance.lab import inventory
from conformance.shells.interpreter import Interpreters
from conformance.shells.shell import Completed, Process, Shell, failed, interpret, late
from conformance.waiting import Deadline

_PIECE = 1 << 16


class SshShell(Shell):
    """Commands over SSH, by Tempest's client. One connection, opened at first use and again after it broke.

    A script is run by an interpreter that stays.

    Args:
        spec: Where, as whom and with which key.
        through: A shell to the same machine whose connection is used; it outlives this one.
    """

    def __init__(self, spec: inventory.SshShell, through: SshShell | None = None) -> None:
        self.spec = spec
        self._prefix = ("ip", "netns", "exec", spec.netns) if spec.netns else ()
        self._through = through
        self._client: Any = None
        self._interpreters = Interpreters(self._begin)
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
            silent = any(reader.is_alive() for reader in readers) or len(taken) < len(readers)
            ended = not silent and channel.status_event.wait(deadline.left)
            status = channel.exit_status
        finally:
            channel.close()
        if silent and deadline.left == 0:
            raise late(argv, timeout_s, self._where)
        if not ended:
            raise HostDown(f"the connection to {self._where} broke")
        done = Completed(tuple(argv), status, taken["out"], taken["err"])
        if check and status != 0:
            raise failed(done, self._where)
        return done

    def script(self, text: str, *args: str, timeout_s: float = 30.0, check: bool = True) -> Completed:
        if self._prefix:  # a peer's: they are asked rarely
            return super().script(text, *args, timeout_s=timeout_s, check=check)
        try:
            done = interpret(self._interpreters, text, args, timeout_s, self._where)
        except OSError as error:
            raise HostDown(f"the connection to {self._where} broke") from error
        if check and done.status != 0:
            raise failed(done, self._where)
        return done

    def _begin(self) -> _SshSession:
        return _SshSession(self._session(["sh"]), self._end)

    def _end(self, group: int) -> None:
        """End a process group on the host, if that answers."""
        with suppress(LabError):
            self.run(["kill", "-s", "KILL", "--", f"-{group}"], check=False)

    def popen(self, argv: Sequence[str]) -> Process:
        return _SshProcess(self._session(argv))

    def close(self) -> None:
        self._interpreters.close()
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _session(self, argv: Sequence[str]) -> Any:
        line = "exec " + shlex.join([*self._prefix, *argv])  # no login shell that waits for it
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
            raise LoginRefused(f"{self._where} answers, and refuses the key or password", hint=hint) from None
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
        """Raise `LoginRefused` for a host's key that is not the right one."""
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
            raise LoginRefused(
                f"{self._where} shows a {key.get_name()} host key that is not the one in {source}",
                hint=f"compare with `ssh-keyscan -t {key.get_name()} -p {spec.port} {spec.address}`, then set host_key",
            )


class _SshSession:
    """A shell at the other end of a channel; `end` ends a process group on the host."""

    def __init__(self, channel: Any, end: Callable[[int], None]) -> None:
        self._channel = channel
        self._end = end

    @property
    def alive(self) -> bool:
        return not self._channel.closed and not self._channel.eof_received and self._channel.get_transport().is_active()

    def send(self, data: bytes, seconds: float) -> None:
        self._channel.settimeout(seconds)
        self._channel.sendall(data)

    def receive(self, seconds: float) -> bytes:
        self._channel.settimeout(seconds)
        data: bytes = self._channel.recv(_PIECE)
        return data

    def receive_errors(self, seconds: float) -> bytes:
        self._channel.settimeout(seconds)
        data: bytes = self._channel.recv_stderr(_PIECE)
        return data

    def kill(self, group: int) -> None:
        there = self.alive
        self._channel.close()
        if group and there:  # sshd leaves behind what does not read
            self._end(group)

    def close(self) -> None:
        self._channel.close()


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
