"""What the endpoint of the double hands to the model of a host: parsed pipelines, never text of a script.

The endpoint owns the protocol (WinRM, authentication, shells, runspace pools, JSON and CLIXML); an engine owns what
cmdlets mean. The endpoint shapes an outcome's objects by the caller's `select` and `depth`, so an engine returns all
that it knows.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Auth = Literal["basic", "ntlm", "kerberos", "certificate", "credssp"]


@dataclass(frozen=True, slots=True)
class Command:
    """One element of a pipeline.

    Args:
        name: The cmdlet, or for a script of the project its name without ``.ps1``.
        parameters: As they were bound: None, bool, int, float, str, and lists and dictionaries of them. Names keep the
            caller's case; PowerShell does not mind the case of names.
        script: Whether it is a script of the project.
    """

    name: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    script: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """Who asks: one login, one shell or runspace pool.

    Args:
        id: The shell's id.
        user: The account that logged in.
        auth: How. A second hop from this host needs credentials that were delegated to it.
        tls: Whether it came over HTTPS.
    """

    id: str
    user: str
    auth: Auth
    tls: bool

    @property
    def delegated(self) -> bool:
        """Whether the user's credentials are on this host, for a second hop. NTLM and Basic never bring them."""
        return self.auth == "credssp"


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """A terminating error as PowerShell describes it.

    Args:
        message: What a person reads.
        error_id: ``FullyQualifiedErrorId``: the cmdlet's own id, a comma, the class of the command.
        category: Name in ``System.Management.Automation.ErrorCategory``.
        hresult: Unsigned; 0 for none.
        exception: Full name of the exception's type.
    """

    message: str
    error_id: str
    category: str
    hresult: int = 0
    exception: str = "Microsoft.HyperV.PowerShell.VirtualizationException"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pipeline ended with.

    Args:
        objects: What its last element wrote before it ended: mappings of property names to values as in
            `Command.parameters`, nested mappings for objects inside objects (shown as their ``Name`` where the caller's
            depth ends), or bare values. A nested mapping is a copy: the endpoint reads it on another thread.
        warnings: The warning stream.
        error: What ended it; None if it ran to its end.
    """

    objects: Sequence[object] = ()
    warnings: Sequence[str] = ()
    error: ErrorRecord | None = None


class Engine(Protocol):
    """A model of one host. Called from many threads at once, one call a session at a time."""

    def run(self, session: Session, pipeline: Sequence[Command], *, stop: threading.Event) -> Outcome:
        """Carry a pipeline out.

        Args:
            session: Who asks.
            pipeline: At least one element.
            stop: Set when the caller no longer wants it (signal, shell deleted): return soon, the outcome is dropped.
        """
        ...
