"""Pipelines travel as data and come back as values, the same over every way."""

from __future__ import annotations

import threading

import pytest

from conformance.errors import Exists, HypervisorFailure, InvalidState, NotFound
from drivers.hyperv import errors
from drivers.hyperv.transport import Command, RemoteError, Script, Transport
from labs.hyperv_double.endpoint import Endpoint
from tests.hyperv.transport.conftest import SECONDS, Bench, Way, ask
from tests.hyperv.transport.engine import Echo

NAMES = [
    "plain",
    "it's",
    'say "hello"',
    "$(Stop-Computer -Force)",
    "${env:USERNAME}",
    "`n`0`$x",
    "vm*[a-z]?",
    "a;b|c&d>e<f",
    "-Force",
    "@{a=1}",
    "\u0417\u0434\u0440\u0430\u0432\u043e \u2603 \U0001f600",
    "_x0041_ _X000D_ _x005F_",
    "line\nbreak\ttab\rreturn",
    "quote\u2019s and \u201cthese\u201d",  # PowerShell takes typographic quotes for quotes
    "]]> <!-- &amp; </Objs>",
    "\\u0041 \\n %PATH% !x!",
    " leading and trailing ",
    "",
    "x" * 300_000,
]


def test_names_travel_unharmed(transport: Transport, engine: Echo) -> None:
    for name in NAMES:
        (seen,) = transport.invoke([Command("Get-VM", {"Name": name})], deadline_s=SECONDS).objects
        assert seen["Parameters"] == {"Name": name}
        assert engine.pipelines[-1][0].parameters["Name"] == name


def test_values_keep_their_types(transport: Transport) -> None:
    values = {
        "Yes": True,
        "No": False,
        "Nothing": None,
        "Small": -1,
        "Size": 9_007_199_254_740_993,
        "Share": 0.1,
        "List": ["a", 1, None, True],
        "One": ["a"],
        "None": [],
        "Table": {"Key": "value", "Inner": {"Deep": [1, 2]}},
    }
    (seen,) = transport.invoke([Command("Get-VM", values)], depth=6, deadline_s=SECONDS).objects
    assert seen["Parameters"] == values


def test_a_pipeline_keeps_its_order_and_ends_at_errors(transport: Transport, engine: Echo) -> None:
    transport.invoke(
        [Command("Get-VM", {"Id": "1"}), Command("Stop-VM", {"Force": True, "ErrorAction": "Continue"})],
        deadline_s=SECONDS,
    )
    (first, second) = engine.pipelines[-1]
    assert (first.name, first.parameters) == ("Get-VM", {"ErrorAction": "Stop", "Id": "1"})
    assert (second.name, second.parameters) == ("Stop-VM", {"ErrorAction": "Continue", "Force": True})


def test_selected_properties_are_returned_and_no_others(transport: Transport) -> None:
    result = transport.invoke(
        [Command("Get-VM", {"Disks": [{"Path": "a"}, {"Path": "b"}], "One": [{"Path": "c"}], "No": None})],
        select=["name", "Parameters.Disks.Path", "Parameters.One.Path", "Parameters.No.Path", "Missing"],
        deadline_s=SECONDS,
    )
    assert result.objects == [
        {
            "name": "Get-VM",
            "Parameters.Disks.Path": ["a", "b"],
            "Parameters.One.Path": ["c"],
            "Parameters.No.Path": None,
            "Missing": None,
        }
    ]


def test_depth_ends_in_the_text_of_what_is_deeper(transport: Transport) -> None:
    inner = {"Name": "inner", "Deeper": {"Name": "deeper"}}
    for depth, wanted in (
        (0, "object"),
        (1, {"Inner": "inner"}),
        (2, {"Inner": {"Name": "inner", "Deeper": "deeper"}}),
    ):
        result = transport.invoke([Command("Get-VM", {"Inner": inner})], depth=depth, deadline_s=SECONDS)
        assert result.objects[0]["Parameters"] == wanted


def test_what_is_no_object_has_one_property(transport: Transport) -> None:
    assert ask(transport, "Bare") == [{"Value": "text"}, {"Value": 7}, {"Value": None}, {"Value": [1, 2]}]
    assert ask(transport, "Nothing") == []


def test_warnings_come_with_the_objects(transport: Transport) -> None:
    result = transport.invoke([Command("Warn")], deadline_s=SECONDS)
    assert result.objects == [{"Name": "warned"}]
    assert result.warnings == ["job completed with warnings", "and \u2603"]


def test_an_answer_larger_than_an_envelope_arrives_whole(transport: Transport) -> None:
    rows = ask(transport, "Many", Count=1500)
    assert isinstance(rows, list)
    assert [row["Index"] for row in rows] == list(range(1500))
    assert all(row["Text"] == "x" * 1000 for row in rows)


def test_an_error_record_arrives_with_all_that_identifies_it(transport: Transport) -> None:
    with pytest.raises(NotFound) as caught:
        ask(
            transport,
            "Fail",
            message='no such VM: "it\'s" \u2603',
            error_id="ObjectNotFound,Microsoft.HyperV.PowerShell.Commands.GetVM",
            category="ObjectNotFound",
            hresult=0x80131500,
            exception="Microsoft.HyperV.PowerShell.VirtualizationException",
        )
    assert caught.value.host == "hv1"
    remote = caught.value.__cause__
    assert isinstance(remote, RemoteError)
    assert remote.message == 'no such VM: "it\'s" \u2603'
    assert remote.error_id == "ObjectNotFound,Microsoft.HyperV.PowerShell.Commands.GetVM"
    assert remote.category == "ObjectNotFound"
    assert remote.hresult == 0x80131500
    assert remote.exception == "Microsoft.HyperV.PowerShell.VirtualizationException"
    assert ask(transport) != []  # an error of a cmdlet is no error of the session


def test_an_error_names_operation_and_state_once_the_driver_knows_them(transport: Transport) -> None:
    with (
        pytest.raises(InvalidState) as caught,
        errors.translated(operation="start", vm="42", state=lambda: "running"),
    ):
        ask(transport, "Fail", message="no", error_id="InvalidState,X", category="InvalidOperation")
    assert (caught.value.operation, caught.value.vm, caught.value.host) == ("start", "42", "hv1")
    assert caught.value.current == "running"


def test_what_no_table_knows_is_a_failure_of_the_hypervisor(transport: Transport) -> None:
    with pytest.raises(HypervisorFailure) as caught:
        ask(transport, "Fail", message="odd", error_id="Odd,X", category="NotSpecified")
    assert caught.value.code == "Odd,X"
    with pytest.raises(Exists):
        ask(transport, "Fail", message="failed (0x800700B7)", error_id="OperationFailed,X", category="NotSpecified")


def test_calls_one_after_the_other_share_a_session(transport: Transport, endpoint: Endpoint) -> None:
    for _ in range(20):
        ask(transport)
    assert endpoint.counts.requests["Create"] == 1
    assert endpoint.counts.connections == 1


def test_calls_of_many_threads_each_have_a_session(transport: Transport, endpoint: Endpoint, engine: Echo) -> None:
    errors_seen: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                name = f"vm-{number}-{turn}"
                (seen,) = transport.invoke([Command("Get-VM", {"Name": name})], deadline_s=60).objects
                assert seen["Parameters"] == {"Name": name}
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors_seen.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors_seen == []
    assert len({session.id for session in engine.sessions}) <= 8
    assert endpoint.open_shells <= 8


def test_a_script_of_the_project_is_a_step(transport: Transport, engine: Echo) -> None:
    # shape.ps1 stands in for any: what matters is that it arrives as itself
    result = transport.invoke(
        [Command("Get-VM"), Script("shape", {"Depth": 1}), Command("Out-Null")], deadline_s=SECONDS
    )
    assert [(step.name, step.script) for step in engine.pipelines[-1]] == [
        ("Get-VM", False),
        ("shape", True),
        ("Out-Null", False),
    ]
    assert result.objects[0]["Name"] == "Out-Null"


def test_messages_over_http_are_encrypted(bench: Bench, way: Way) -> None:
    endpoint = bench.serve()
    ask(bench.connect(endpoint))
    assert (endpoint.counts.encrypted == 0) == (way.scheme == "https")
    assert (endpoint.counts.clear == 0) == (way.scheme == "http")


def test_a_mistake_of_the_driver_is_not_sent(transport: Transport, endpoint: Endpoint) -> None:
    with pytest.raises(ValueError, match="empty pipeline"):
        transport.invoke([], deadline_s=SECONDS)
    assert endpoint.counts.connections == 0
