"""Answers of the host's side are checked, CLIXML is read stream by stream, and the double's marker is seen."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from conformance.errors import HostDown, HypervisorFailure, LabError, MissingRequirement
from drivers.hyperv import transport
from drivers.hyperv.transport import Command, clixml, messages, psrp
from labs.hyperv_double import manifest, marker
from labs.hyperv_double.endpoint import Endpoint
from labs.hyperv_double.endpoint.shells import clixml as written
from tests.hyperv.transport.engine import Echo

GOOD = {"id": 1, "ok": True, "warnings": [], "objects": [{"Name": "a"}]}


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"null",
        b"[]",
        b'{"id": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({**GOOD, "id": 2}).encode(),
        json.dumps({**GOOD, "ok": "yes"}).encode(),
        json.dumps({**GOOD, "objects": [1]}).encode(),
        json.dumps({**GOOD, "warnings": None}).encode(),
        json.dumps({**GOOD, "ok": False}).encode(),
        json.dumps({**GOOD, "ok": False, "error": {"message": "x"}}).encode(),
        json.dumps({**GOOD, "ok": False, "error": "x"}).encode(),
    ],
)
def test_what_is_no_answer_is_refused(message: bytes) -> None:
    with pytest.raises(HypervisorFailure, match=r"not an answer of answer\.ps1"):
        messages.answer(message, 1)
    assert messages.answer(json.dumps(GOOD).encode(), 1).result.objects == [{"Name": "a"}]


def test_a_value_that_json_does_not_have_is_a_mistake_of_the_driver() -> None:
    with pytest.raises(ValueError, match="JSON"):
        messages.request(1, messages.bind([Command("Get-VM", {"X": float("nan")})], [], 2))
    with pytest.raises(TypeError):
        messages.request(1, messages.bind([Command("Get-VM", {"X": b"bytes"})], [], 2))  # type: ignore[dict-item]


def test_requests_are_one_line_of_ascii() -> None:
    line = messages.request(1, messages.bind([Command("Get-VM", {"Name": "a\nb\u2603\U0001f600"})], [], 2))
    assert line.isascii()
    assert line.count(b"\n") == 1


def test_a_pipeline_is_described_without_its_values() -> None:
    assert messages.describe([Command("Get-VM", {"Name": "secret"}), messages.Script("shape")]) == "Get-VM | shape.ps1"


def test_clixml_streams_are_kept_apart() -> None:
    data = (
        b'#< CLIXML\r\n<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
        b'<S S="progress">half</S><S S="Warning">careful_x000D__x000A_</S><S S="Error">first_x000D__x000A_</S>'
        b'<S S="Error">&lt;second&gt; _x005F_x0041_ _xD83D__xDE00_</S></Objs>'
    )
    assert clixml.messages(data) == "first\r\n<second> _x0041_ \U0001f600"
    assert clixml.messages(data, "Warning") == "careful"
    assert clixml.messages(data + b"\r\n" + written("third")).endswith("third")


def test_broken_or_hostile_clixml_is_shown_as_it_is() -> None:
    assert clixml.messages(b"The command line is too long.\r\n") == "The command line is too long."
    assert clixml.messages(b"#< CLIXML\r\n<Objs><S S='Error'>cut") == "<Objs><S S='Error'>cut"
    bomb = b"#< CLIXML\r\n<!DOCTYPE b [<!ENTITY a 'aaaa'>]><Objs><S S='Error'>&a;</S></Objs>"
    assert "<!DOCTYPE" in clixml.messages(bomb)
    assert clixml.messages(b"\xff\xfe") == "\ufffd\ufffd"


@pytest.mark.parametrize("secure", [False, True])
def test_a_run_on_hardware_is_stopped_by_the_doubles_marker(certificate_files: Path, secure: bool) -> None:
    files = (certificate_files / "servercert.pem", certificate_files / "serverkey.pem") if secure else None
    with (
        Endpoint(Echo(), accounts={}, certificate=files) as endpoint,
        pytest.raises(LabError, match="evidence of hardware"),
    ):
        marker.refuse(endpoint.url)
    with pytest.raises(HostDown):
        marker.refuse(endpoint.url)
    marker.check({"Server": "Microsoft-HTTPAPI/2.0"}, "https://hv1/wsman")
    assert manifest.load().evidence == "own-double"


def test_clixml_with_a_document_type_is_refused_before_it_is_parsed() -> None:
    serializer = psrp._Serializer()
    assert serializer.deserialize("<S>a &lt;!DOCTYPE b&gt;</S>") == "a <!DOCTYPE b>"
    with pytest.raises(HypervisorFailure, match="document type"):
        serializer.deserialize("<!DOCTYPE b [<!ENTITY a 'aaaa'>]><S>&a;</S>")


def test_missing_client_libraries_are_a_missing_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "drivers.hyperv.transport.winrs")
    monkeypatch.setitem(sys.modules, "winrm", None)
    settings = transport.WinrmSettings.model_validate(
        {"endpoints": {"hv1": "https://hv1/wsman"}, "user": "lab", "password_env": "X"}
    )
    with pytest.raises(MissingRequirement, match="pywinrm") as caught:
        transport.open_transport("hv1", settings, transport.Secret("x"))
    assert "hvconform[hyperv]" in caught.value.hint


def test_ids_of_cmdlets_never_become_text_of_a_script() -> None:
    hostile = "Get-VM; Stop-Computer"
    line = json.loads(messages.request(1, messages.bind([Command(hostile, {"$(x)": "$(y)"})], [], 2)))
    first = line["pipeline"][0]
    assert first == {"cmdlet": hostile, "parameters": {"ErrorAction": "Stop", "$(x)": "$(y)"}}
    assert set(line) == {"id", "pipeline"}, "scripts are defined apart, and only from this project's files"
    with pytest.raises(FileNotFoundError):
        messages.definition("../../etc/passwd")
