"""The probe's own way to a host: a runspace pool by pypsrp, in which cmdlets are run and answered as JSON.

It shares nothing with the driver's transports: what those get wrong, the probe must not get wrong in the same way.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import pypsrp.exceptions
import requests
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.serializer import TaggedValue
from pypsrp.wsman import WSMan

from conformance.errors import HostDown, LabFileError, ProbeFailed
from conformance.lab.inventory import WinrmShell

Element = tuple[str, Mapping[str, Any]]
"""A cmdlet and its parameters; True is a switch."""

Row = dict[str, Any]

_CONNECT_S = 10
_READ_S = 60


class Refused(ProbeFailed):
    """A cmdlet of the probe ended with an error. `code` is its error id."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def url_of(shell: WinrmShell) -> str:
    """The URL with its environment variables put in."""
    return os.path.expandvars(shell.url)


def _password(shell: WinrmShell, host: str) -> str | None:
    if shell.password_env:
        value = os.environ.get(shell.password_env)
        if value is None:
            raise LabFileError(f"host {host}: the environment variable {shell.password_env} is not set")
        return value
    if shell.password_file:
        try:
            return shell.password_file.read_text(encoding="utf-8").splitlines()[0]
        except (OSError, IndexError, UnicodeDecodeError) as error:
            raise LabFileError(f"host {host}: {shell.password_file} cannot be read: {error}") from None
    return None


def _typed(value: Any) -> Any:
    """A parameter with its type: pypsrp takes every number for one of 32 bits."""
    wide = isinstance(value, int) and not -(1 << 31) <= value < 1 << 31
    return TaggedValue("I64", value) if wide else value


class Session:
    """One runspace on one host, opened at its first use. One question at a time.

    Args:
        host: Lab name, for errors.
        shell: How it is reached.
    """

    def __init__(self, host: str, shell: WinrmShell) -> None:
        self._host = host
        self._shell = shell
        self._lock = threading.Lock()
        self._pool: Any = None

    def ask(self, *pipeline: Element, select: Sequence[str] = ()) -> list[Row]:
        """Run one pipeline; its objects, with the properties of `select`.

        Raises:
            Refused: A cmdlet ended with an error.
            HostDown: The host does not answer.
        """
        return self.ask_all([(pipeline, select)])

    def ask_all(self, queries: Sequence[tuple[Sequence[Element], Sequence[str]]]) -> list[Row]:
        """Run several pipelines in one exchange; all their objects, told apart by their properties."""
        with self._lock:
            try:
                return self._run(queries)
            except (
                pypsrp.exceptions.WinRMError,
                pypsrp.exceptions.WinRMTransportError,
                pypsrp.exceptions.WSManFaultError,
                pypsrp.exceptions.InvalidRunspacePoolStateError,
                requests.exceptions.RequestException,
                OSError,
            ) as error:
                self._drop()
                raise HostDown(
                    f"host {self._host} does not answer over WinRM: {error}",
                    hint="hvconform doctor --lab FILE; docs/labs/hyperv.md says how WinRM is set up",
                ) from None

    def _run(self, queries: Sequence[tuple[Sequence[Element], Sequence[str]]]) -> list[Row]:
        shell = PowerShell(self._opened())
        for number, (pipeline, select) in enumerate(queries):
            if number:
                shell.add_statement()
            for name, parameters in pipeline:
                shell.add_cmdlet(name)
                shell.add_parameters({key: _typed(value) for key, value in parameters.items()})
            if select:
                shell.add_cmdlet("Select-Object").add_parameters({"Property": list(select)})
                shell.add_cmdlet("ConvertTo-Json").add_parameters({"Compress": True, "Depth": 3})
        output = shell.invoke()
        if shell.had_errors or shell.streams.error:
            said = shell.streams.error[0] if shell.streams.error else "an error without a record"
            raise Refused(f"host {self._host}: {queries[0][0][0][0]}: {said}", str(getattr(said, "fq_error", "") or ""))
        rows: list[Row] = []
        for text in output:
            if isinstance(text, str):
                found = json.loads(text)
                rows += found if isinstance(found, list) else [found]
        return rows

    def _opened(self) -> Any:
        if self._pool is None:
            parts = urlsplit(url_of(self._shell))
            verify: Any = self._shell.verify
            if verify and self._shell.ca_file:
                verify = str(self._shell.ca_file)
            connection = WSMan(
                parts.hostname or "",
                port=parts.port or (5986 if parts.scheme == "https" else 5985),
                path=parts.path.strip("/") or "wsman",
                ssl=parts.scheme == "https",
                auth=self._shell.auth,
                username=self._shell.user or None,
                password=_password(self._shell, self._host),
                cert_validation=verify,
                connection_timeout=_CONNECT_S,
                read_timeout=_READ_S,
                operation_timeout=_READ_S - 10,
                no_proxy=True,
            )
            self._pool = RunspacePool(connection)
            self._pool.open()
            quiet = PowerShell(self._pool)
            for name, value in (("ProgressPreference", "SilentlyContinue"), ("ConfirmPreference", "None")):
                quiet.add_cmdlet("Set-Variable").add_parameters({"Name": name, "Value": value, "Scope": "Global"})
                quiet.add_statement()
            quiet.add_cmdlet("Set-Variable").add_parameters(
                {"Name": "ErrorActionPreference", "Value": "Stop", "Scope": "Global"}
            )
            quiet.invoke()
        return self._pool

    def _drop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                pool.close()
                pool.connection.close()
            except Exception as error:  # noqa: BLE001 - it is lost already, and ends by its idle timeout
                self._lost = str(error)

    def close(self) -> None:
        """Delete the runspace on the host; never raises."""
        with self._lock:
            self._drop()
