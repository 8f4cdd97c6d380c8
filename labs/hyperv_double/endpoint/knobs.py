"""Faults of the protocol, planted by tests: each fires on a chosen request and is counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "operation-timeout",  # the fault that means "nothing yet"
    "quota-shells",
    "quota-operations",
    "access-denied",  # WSManFault 5
    "shell-lost",  # the shell is gone before the request is looked at
    "silent-exit",  # the process in the shell has ended with exit code 0 and no output
    "truncated-output",  # so has it after half an answer
    "garbage",  # bytes that are no XML
    "empty",  # an empty body
    "html",  # a proxy's error page, with status 200
    "xml-bomb",
    "external-entity",
    "hang",  # no answer as long as the client waits
    "drip",  # one byte of the answer now and then
    "endless",  # an answer that does not end
    "drop",  # the connection is closed without an answer
    "drop-midway",  # and after half of one
    "unauthorized",  # 401, with no way to log in
    "server-error",  # 500 without a body
    "redirect",
    "plain",  # an encrypted request is answered in the clear
]

BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaaaaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 40) for i in range(9))
    + b"]><b>&j;</b>"
)
"""Expands to 20 * 40**9 letters."""

EXTERNAL = (
    b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    b'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body>&x;</s:Body></s:Envelope>'
)


@dataclass(slots=True)
class Planted:
    """A fault that waits for its request.

    Args:
        on: The verb of the request (Create, Command, Send, Receive, Signal, Delete); empty: any.
        skip: How many such requests go well before.
        times: How many are hit.
        fired: How many were.
    """

    kind: Kind
    on: str = ""
    skip: int = 0
    times: int = 1
    fired: int = 0


class Knobs:
    """The faults of one endpoint, and a tap for fuzzing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planted: list[Planted] = []
        self.mutate: Callable[[str, bytes], bytes] | None = None
        """Given a request's verb and the SOAP answer, returns what is sent in its place."""

    def plant(self, kind: Kind, *, on: str = "", skip: int = 0, times: int = 1) -> Planted:
        """Plant a fault; the returned object counts how often it fired."""
        fault = Planted(kind, on, skip, times)
        with self._lock:
            self._planted.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._planted.clear()
        self.mutate = None

    def take(self, verb: str) -> Kind | None:
        """The fault that hits this request, if one does."""
        with self._lock:
            for fault in self._planted:
                if fault.on not in ("", verb) or fault.fired >= fault.times:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.fired += 1
                return fault.kind
        return None
