"""The messages of a call, which a library writes once and which are filled in after that."""

from __future__ import annotations

import socket
import ssl
import time
import types
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pypsrp.shell
import pytest

from conformance.errors import HypervisorFailure
from drivers.hyperv.transport import Secret, Transport, WinrmSettings, envelopes, kept
from drivers.hyperv.transport.kept import KeptScript
from drivers.hyperv.transport.psrp import POOL, PsrpChannel
from drivers.hyperv.transport.winrs import WinrsChannel
from labs.hyperv_double.endpoint import Endpoint
from tests.hyperv.transport.conftest import ask

URL = "https://hv1.test:5986/wsman"
SHELL, COMMAND = "0E0B3A8C-SHELL", 'C&"OMMAND'
DATA = b'{"id": 1, "text": "<&>"}\n'


class Sent(Exception):
    """A message was on its way."""


def settings() -> WinrmSettings:
    return WinrmSettings.model_validate(
        {"endpoints": {"hv1": URL}, "user": "lab", "password_env": "UNUSED", "auth": "basic"}
    )


def winrs(post: Callable[..., bytes]) -> tuple[KeptScript, Callable[[], Any], Callable[[], Any]]:
    channel = WinrsChannel(URL, settings(), Secret("x"))
    channel._shell, channel._command = SHELL, COMMAND
    protocol = channel._protocol
    protocol.transport.send_message = post  # type: ignore[method-assign]
    return (
        channel,
        lambda: protocol.send_command_input(SHELL, COMMAND, DATA),
        lambda: protocol.get_command_output_raw(SHELL, COMMAND),
    )


def psrp(post: Callable[..., bytes]) -> tuple[KeptScript, Callable[[], Any], Callable[[], Any]]:
    channel = PsrpChannel(URL, settings(), Secret("x"))
    channel._connection.transport.send = post
    shell = pypsrp.shell.WinRS(channel._connection, resource_uri=POOL, id=SHELL)
    shell._selector_set = pypsrp.wsman.SelectorSet()
    shell._selector_set.add_option("ShellId", SHELL)
    channel._pool = types.SimpleNamespace(shell=shell)
    channel._script = types.SimpleNamespace(_command_id=COMMAND)
    return (
        channel,
        lambda: shell.send("stdin", DATA, command_id=COMMAND),
        lambda: shell.receive("stdout", command_id=COMMAND),
    )


def content(message: bytes | str) -> list[tuple[str, dict[str, str], str]]:
    """What a message says: every element but its id, its attributes and its text, in order of the elements' names."""
    found = [
        (node.tag, dict(node.attrib), (node.text or "").strip()) for node in ElementTree.fromstring(message).iter()
    ]
    for _, attributes, _ in found:
        attributes.pop("End", None)  # "false" is what it is without
    return sorted((each for each in found if not each[0].endswith("}MessageID")), key=repr)


@pytest.mark.parametrize("way", [winrs, psrp])
def test_what_is_filled_in_is_what_the_library_would_have_sent(way: Any) -> None:
    sent: list[bytes | str] = []

    def post(message: bytes | str, **_: object) -> bytes:
        sent.append(message)
        raise Sent

    channel, send, receive = way(post)
    until = time.monotonic() + kept.POLL_SECONDS
    for ours, theirs in ((lambda: channel._send(DATA, until), send), (lambda: channel._receive(until), receive)):
        for call in (ours, theirs, ours):
            with pytest.raises(Sent):
                call()
    for at in (0, 3):
        first, library, second = sent[at : at + 3]
        assert content(first) == content(library) == content(second)
        assert first != second, "each message has an id of its own"


@pytest.mark.parametrize("verb", ["Send", "Receive"])
def test_an_answer_to_another_message_is_refused(endpoint: Endpoint, transport: Transport, verb: str) -> None:
    assert ask(transport)
    endpoint.knobs.mutate = lambda asked, body: (
        body.replace(b"RelatesTo>uuid:", b"RelatesTo>uuid:0") if asked == verb else body
    )
    with pytest.raises(HypervisorFailure, match="another message"):
        ask(transport)
    endpoint.knobs.clear()
    assert ask(transport), "the next call does not suffer"


def test_what_a_pipeline_writes_is_bounded(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "OUTPUT_BYTES", 1 << 20)
    with pytest.raises(HypervisorFailure, match="wrote more than 1 MiB"):
        ask(transport, "Many", Count=1500)
    assert ask(transport, "Many", Count=10), "the next call does not suffer"


def test_a_message_leaves_in_one_piece(
    endpoint: Endpoint, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(transport)
    port = urlsplit(endpoint.url).port
    pieces: list[bytes] = []

    for kind in (socket.socket, ssl.SSLSocket):

        def counted(self: Any, data: bytes, *, send: Callable[..., None] = kind.sendall) -> None:
            if self.getpeername()[1] == port:  # the double's own sockets are of the same process
                pieces.append(data)
            send(self, data)

        monkeypatch.setattr(kind, "sendall", counted)
    ask(transport)
    assert len(pieces) == 2, "a Send and a Receive"
    assert all(piece.startswith(b"POST ") and not piece.endswith(b"\r\n\r\n") for piece in pieces)


@pytest.mark.parametrize("text", ["no base64!", "\u00e9"])
def test_output_that_is_no_base64_is_refused(text: str) -> None:
    answer = (
        '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:r="http://schemas.microsoft.com/wbem/wsman/1'
        '/windows/shell" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"><s:Header><a:RelatesTo>uuid:X'
        f'</a:RelatesTo></s:Header><s:Body><r:ReceiveResponse><r:Stream Name="stdout">{text}</r:Stream>'
        "</r:ReceiveResponse></s:Body></s:Envelope>"
    )
    with pytest.raises(HypervisorFailure, match="base64"):
        envelopes.received(answer.encode(), "X")
