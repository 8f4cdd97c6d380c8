"""The two messages that a call is made of, Send and Receive ([MS-WSMV] 3.1.4.13 and 3.1.4.14).

Their heads are written by the library (pywinrm or pypsrp), once for each shell, command and time limit: two such
messages differ in their id and their data alone, and to have one written anew takes as long as to exchange it.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from conformance.errors import HypervisorFailure

Action = Literal["Send", "Receive"]

SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
ID, BODY, _DATA = "hvconform-id", "hvconform-body", "hvconform-data"
"""Stand for a message's id, its body and a Send's data while they are to come."""

_ADDRESSING = "{http://schemas.xmlsoap.org/ws/2004/08/addressing}"
_SHELL = f"{{{SHELL}}}"


class Envelope:
    """A message to one command, to be filled.

    Args:
        written: What the library wrote, with `ID` and `BODY` in it.
        command: The command's id.
        streams: The streams that a Receive asks for.
    """

    def __init__(self, written: str, action: Action, command: str, streams: str) -> None:
        to = quoteattr(command)
        body = {
            "Send": f'<r:Send xmlns:r="{SHELL}"><r:Stream Name="stdin" CommandId={to}>{_DATA}</r:Stream></r:Send>',
            "Receive": f'<r:Receive xmlns:r="{SHELL}">'
            f"<r:DesiredStream CommandId={to}>{streams}</r:DesiredStream></r:Receive>{_DATA}",
        }
        before, rest = written.replace(BODY, body[action]).split(ID)
        between, after = rest.split(_DATA)
        self._parts = before.encode(), between.encode(), after.encode()

    def filled(self, data: bytes = b"") -> tuple[str, bytes]:
        """The id of a new message, and the message; `data` is what a Send takes along."""
        id = str(uuid.uuid4()).upper()
        before, between, after = self._parts
        return id, b"".join((before, id.encode(), between, base64.b64encode(data), after))


@dataclass(frozen=True, slots=True)
class Received:
    """What a Receive brought.

    `done` says that the command has ended, with `code`, if the host told one.
    """

    out: bytes = b""
    err: bytes = b""
    done: bool = False
    code: int | None = None


def related(answer: bytes, id: str) -> ElementTree.Element:
    """Parse an answer that `wire.check_xml` has passed.

    Raises:
        HypervisorFailure: It is one to another message than `id`.
    """
    root = ElementTree.fromstring(answer)
    to = next((node.text or "" for node in root.iter(f"{_ADDRESSING}RelatesTo")), "")
    if to.upper() != f"UUID:{id}":
        raise HypervisorFailure(f"the endpoint answered another message than it was sent ({to[:100]!r})")
    return root


def received(answer: bytes, id: str) -> Received:
    """Read the answer to a Receive; raises `HypervisorFailure` if it makes no sense."""
    root = related(answer, id)
    streams = {"stdout": b"", "stderr": b""}
    for node in root.iter(f"{_SHELL}Stream"):
        name = node.get("Name", "")
        if name in streams and node.text:
            try:
                streams[name] += base64.b64decode("".join(node.text.split()), validate=True)
            except ValueError:
                raise HypervisorFailure("the endpoint's answer has output that is no base64") from None
    state = root.find(f".//{_SHELL}CommandState")
    done = state is not None and state.get("State", "").endswith("CommandState/Done")
    code = root.findtext(f".//{_SHELL}ExitCode")
    return Received(streams["stdout"], streams["stderr"], done, int(code) if code else None)
