"""What the driver asks of a transport: run a pipeline of cmdlets on one Hyper-V host and get plain values back.

Operations are data. A cmdlet's name and its parameters travel as values and are bound by PowerShell's own parameter
binder, never pasted into a script's text: a VM called ``$(Stop-Computer)`` is a name like any other. The one thing that
is text is a script of this project, constant and in `drivers/hyperv/scripts`, which takes its arguments as parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
"""What crosses the wire, both ways."""


@dataclass(frozen=True, slots=True)
class Command:
    """One cmdlet of a pipeline.

    Args:
        cmdlet: Its name, such as ``"Get-VM"``.
        parameters: By name, without the dash. True sets a switch, a list is an array; PowerShell converts strings to
            what the parameter wants (GUIDs, enumerations, paths). None binds ``$null``.
    """

    cmdlet: str
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Script:
    """One script of `drivers/hyperv/scripts` as an element of a pipeline.

    Args:
        name: The file's name without ``.ps1``.
        parameters: Bound to its ``param`` block.
    """

    name: str
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)


Step: TypeAlias = Command | Script


@dataclass(frozen=True, slots=True)
class Result:
    """What a pipeline wrote.

    Args:
        objects: One dictionary of properties for each object. Enumerations are their names, GUIDs are lower case text,
            times are ISO 8601 in UTC, time spans are seconds. What is not an object (a string, a number)
            stands as ``{"Value": it}``.
        warnings: The warning stream, a message each.
    """

    objects: list[dict[str, JsonValue]]
    warnings: list[str] = field(default_factory=list)


class RemoteError(Exception):
    """A PowerShell error record, as the host gave it; the cause (``__cause__``) of every `DriverError` that a
    pipeline ended with.

    Args:
        message: In the host's language: for people, never for decisions.
        error_id: ``FullyQualifiedErrorId``, such as ``"ObjectNotFound,Microsoft.HyperV.PowerShell.Commands.GetVM"``.
        category: Name of the error category, such as ``"ObjectNotFound"``.
        hresult: As an unsigned 32-bit number; 0 where there is none.
        exception: Full name of the exception's type.
    """

    def __init__(
        self, message: str, *, error_id: str = "", category: str = "", hresult: int = 0, exception: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_id = error_id
        self.category = category
        self.hresult = hresult & 0xFFFFFFFF
        self.exception = exception


class Transport(Protocol):
    """A way to one host. May be used from many threads at once: a call has a session to itself while it runs."""

    @property
    def host(self) -> str:
        """The lab name of the host, which stands in every error."""
        ...

    @property
    def delegates(self) -> bool:
        """Whether the login can be passed on to another host (CredSSP, or Kerberos with delegation): the double hop
        that a migration led from here needs unless the hosts are set up for Kerberos constrained delegation."""
        ...

    def invoke(
        self, pipeline: Sequence[Step], *, select: Sequence[str] = (), depth: int = 2, deadline_s: float
    ) -> Result:
        """Run a pipeline and wait for its end. The first error of a cmdlet ends it (``ErrorAction Stop``).

        Args:
            pipeline: Its elements; each one's output is the next one's input.
            select: The properties to return, dotted for those of inner objects (``"HardDrives.Path"`` is a list where
                there are several). Empty: all, which for a VM means dozens of slow questions to WMI.
            depth: How many levels of objects inside objects are returned as dictionaries; deeper ones are their text.
            deadline_s: Seconds until the call is given up; what it began on the host may go on.

        Raises:
            DriverError: What the pipeline ended with, by `drivers.hyperv.errors`; its cause is the `RemoteError`.
            Timeout: The deadline passed. The session is thrown away.
            HostUnreachable: No connection, or it broke; whether the pipeline ran is unknown.
            AccessDenied: The login was refused.
            QuotaExceeded: The host allows this user no more shells or operations.
            HypervisorFailure: The host answered with something that is no answer.
        """
        ...

    def close(self) -> None:
        """Delete the shells on the host, of all threads. Never raises; bounded in time."""
        ...
