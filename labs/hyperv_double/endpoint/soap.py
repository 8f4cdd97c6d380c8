"""SOAP as WS-Management has it: reading requests, writing answers and faults ([MS-WSMV])."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape, quoteattr

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeXml

NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
    "x": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "p": "http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
}
SHELL = NS["rsp"]
FAULT_ACTION = "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault"

OPERATION_TIMEOUT = 2150858793
SHELL_NOT_FOUND = 2150858843
ENVELOPE_TOO_SMALL = 2150858845
BAD_REQUEST = 2150858752
MAX_SHELLS = 2150859173
MAX_OPERATIONS = 2150859174

SMALLEST_ENVELOPE = 8192


class Fault(Exception):
    """A request that ends in a SOAP fault.

    Args:
        code: Of the WSManFault.
        subcode: Qualified name of the SOAP subcode.
        message: What a person reads.
    """

    def __init__(self, code: int, subcode: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.subcode = subcode
        self.message = message


def timed_out() -> Fault:
    return Fault(
        OPERATION_TIMEOUT,
        "w:TimedOut",
        "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.",
    )


def no_shell(id: str) -> Fault:
    return Fault(
        SHELL_NOT_FOUND,
        "w:InvalidSelectors",
        f"The request for the Windows Remote Shell with ShellId {id} failed because the shell was not found.",
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What a SOAP request asks for.

    Args:
        verb: The last part of its action, such as ``Receive``.
        resource: The resource URI.
        shell: The shell selected; empty for none.
        seconds: Its operation timeout.
        envelope: The largest answer that the client takes, in bytes.
    """

    verb: str
    action: str
    message_id: str
    resource: str
    shell: str
    seconds: float
    envelope: int
    body: Element

    @property
    def is_pool(self) -> bool:
        """Whether it is about a runspace pool, not a cmd shell."""
        return self.resource.startswith("http://schemas.microsoft.com/powershell/")


def parse(data: bytes) -> Request | Fault:
    """Read a request; the fault that answers it if it is none."""
    try:
        root = SafeXml.fromstring(data, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError):
        return Fault(BAD_REQUEST, "s:Sender", "The request is not XML.")
    header, body = root.find("s:Header", NS), root.find("s:Body", NS)
    if header is None or body is None:
        return Fault(BAD_REQUEST, "s:Sender", "The request is not a SOAP envelope.")
    action = header.findtext("a:Action", "", NS)
    selectors = header.findall("w:SelectorSet/w:Selector", NS)
    largest = header.findtext("w:MaxEnvelopeSize", "153600", NS)
    if not largest.isdecimal() or int(largest) < SMALLEST_ENVELOPE:
        return Fault(ENVELOPE_TOO_SMALL, "w:EncodingLimit", "The MaxEnvelopeSize is too small.")
    return Request(
        verb=action.rsplit("/", 1)[-1],
        action=action,
        message_id=header.findtext("a:MessageID", "", NS),
        resource=header.findtext("w:ResourceURI", "", NS),
        shell=next((item.text or "" for item in selectors if item.get("Name") == "ShellId"), ""),
        seconds=_seconds(header.findtext("w:OperationTimeout", "PT60S", NS)),
        envelope=int(largest),
        body=body,
    )


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?", duration)
    if match is None:
        return 60.0
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))


def envelope(action: str, relates_to: str, body: str) -> bytes:
    """An answer."""
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NS.items())
    related = f"<a:RelatesTo>{escape(relates_to)}</a:RelatesTo>" if relates_to else ""
    return (
        f'<s:Envelope xml:lang="en-US" {spaces}><s:Header><a:Action>{escape(action)}</a:Action>'
        f"<a:MessageID>uuid:{str(uuid.uuid4()).upper()}</a:MessageID>"
        "<a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To>"
        f"{related}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def fault(reason: Fault, relates_to: str) -> bytes:
    """The answer to a request that failed."""
    text = escape(reason.message)
    return envelope(
        FAULT_ACTION,
        relates_to,
        "<s:Fault><s:Code><s:Value>s:Receiver</s:Value>"
        f"<s:Subcode><s:Value>{escape(reason.subcode)}</s:Value></s:Subcode></s:Code>"
        f'<s:Reason><s:Text xml:lang="en-US">{text}</s:Text></s:Reason>'
        f'<s:Detail><f:WSManFault Code="{reason.code}" Machine="HVCONFORM-DOUBLE"><f:Message>{text}</f:Message>'
        "</f:WSManFault></s:Detail></s:Fault>",
    )


def created(resource: str, id: str, streams: str, owner: str) -> str:
    """The body that answers a Create."""
    return (
        "<x:ResourceCreated><a:Address>http://127.0.0.1/wsman</a:Address><a:ReferenceParameters>"
        f"<w:ResourceURI>{escape(resource)}</w:ResourceURI><w:SelectorSet>"
        f'<w:Selector Name="ShellId">{id}</w:Selector></w:SelectorSet></a:ReferenceParameters></x:ResourceCreated>'
        f"<rsp:Shell><rsp:ShellId>{id}</rsp:ShellId><rsp:ResourceUri>{escape(resource)}</rsp:ResourceUri>"
        f"<rsp:Owner>{escape(owner)}</rsp:Owner><rsp:ClientIP>127.0.0.1</rsp:ClientIP>"
        f"<rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>{streams}</rsp:OutputStreams>"
        "<rsp:ShellRunTime>P0DT0H0M0S</rsp:ShellRunTime><rsp:ShellInactivity>P0DT0H0M0S</rsp:ShellInactivity></rsp:Shell>"
    )


def stream(name: str, command: str, data: str, *, end: bool = False) -> str:
    """One piece of a stream in a ReceiveResponse; `data` is base64."""
    of = f" CommandId={quoteattr(command)}" if command else ""
    last = ' End="true"' if end else ""
    return f'<rsp:Stream Name="{name}"{of}{last}>{data}</rsp:Stream>'


def state(command: str, *, exit_code: int | None = None) -> str:
    """The state of a command in a ReceiveResponse: running, or done with an exit code."""
    if exit_code is None:
        return f'<rsp:CommandState CommandId={quoteattr(command)} State="{SHELL}/CommandState/Running"/>'
    return (
        f'<rsp:CommandState CommandId={quoteattr(command)} State="{SHELL}/CommandState/Done">'
        f"<rsp:ExitCode>{exit_code}</rsp:ExitCode></rsp:CommandState>"
    )
