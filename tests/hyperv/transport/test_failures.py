"""Whatever the endpoint does wrong ends in a typed error, in bounded time, and leaves no shell behind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from conformance.errors import (
    AccessDenied,
    DriverError,
    HostUnreachable,
    HypervisorFailure,
    QuotaExceeded,
    Timeout,
)
from conformance.waiting import until
from drivers.hyperv.transport import Command, Transport, messages
from labs.hyperv_double.endpoint import Endpoint, Limits
from tests.hyperv.transport.conftest import PASSWORD, SECONDS, Bench, Way, ask
from tests.hyperv.transport.engine import Echo

BROKEN = [
    ("garbage", HypervisorFailure),
    ("empty", HypervisorFailure),
    ("html", HypervisorFailure),
    ("xml-bomb", HypervisorFailure),
    ("external-entity", HypervisorFailure),
    ("endless", HypervisorFailure),
    ("server-error", HypervisorFailure),
    ("redirect", HypervisorFailure),
    ("drop", HostUnreachable),
    ("drop-midway", HostUnreachable),
    ("unauthorized", AccessDenied),
    ("access-denied", AccessDenied),
    ("quota-shells", QuotaExceeded),
    ("quota-operations", QuotaExceeded),
]

VERBS = {"winrs": ("Create", "Command", "Send", "Receive"), "psrp": ("Create", "Command", "Send", "Receive")}


@pytest.mark.parametrize(("kind", "error"), BROKEN)
def test_a_broken_answer_is_a_typed_error(
    bench: Bench, endpoint: Endpoint, way: Way, kind: str, error: type[DriverError]
) -> None:
    for verb in VERBS[way.transport]:
        transport = bench.connect(endpoint)
        began = time.monotonic()
        planted = endpoint.knobs.plant(kind, on=verb)  # type: ignore[arg-type]
        with pytest.raises(error) as caught:
            ask(transport)
        assert planted.fired == 1, verb
        assert time.monotonic() - began < SECONDS
        assert caught.value.host == "hv1"
        assert PASSWORD not in f"{caught.value!r} {caught.value}"
        assert ask(transport) != [], "the next call does not suffer"
        transport.close()
        until("the shells of the broken sessions to be gone", lambda: endpoint.open_shells == 0, seconds=SECONDS)


def given_up(transport: Transport, cmdlet: str, seconds: float) -> None:
    """A call that does not end is given up at its deadline, neither before nor much after."""
    began = time.monotonic()
    with pytest.raises(Timeout) as caught:
        ask(transport, cmdlet, seconds=seconds)
    assert seconds * 0.9 < time.monotonic() - began < seconds + 3.0
    assert caught.value.phase == cmdlet


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_an_endpoint_that_does_not_come_to_an_end_is_given_up_in_time(
    bench: Bench, endpoint: Endpoint, way: Way, kind: str
) -> None:
    for verb in VERBS[way.transport]:
        transport = bench.connect(endpoint)
        planted = endpoint.knobs.plant(kind, on=verb)  # type: ignore[arg-type]
        seconds = 0.5
        while not planted.fired:  # a busy machine may not get as far as that in the time
            given_up(transport, "Get-VM", seconds)
            seconds *= 2
        assert ask(transport) != []


def test_a_pipeline_that_lasts_too_long_is_stopped_on_the_host(
    endpoint: Endpoint, transport: Transport, engine: Echo
) -> None:
    seconds = 0.5
    while not engine.entered.is_set():
        given_up(transport, "Wait", seconds)
        seconds *= 2
    assert engine.stopped.wait(SECONDS)
    until("its shell to be gone", lambda: endpoint.open_shells == 0, seconds=SECONDS)
    engine.go.set()
    assert ask(transport) != []


def test_no_output_for_a_while_is_no_error(endpoint: Endpoint, transport: Transport) -> None:
    endpoint.knobs.plant("operation-timeout", on="Receive", times=3)
    assert ask(transport) != []
    assert endpoint.counts.requests["Create"] == 1


def test_a_shell_that_was_lost_between_calls_is_made_anew(endpoint: Endpoint, transport: Transport) -> None:
    ask(transport)
    for shell in list(endpoint.shells):
        endpoint.lose(shell)
    assert ask(transport) != []
    assert endpoint.counts.requests["Create"] == 2


def test_a_connection_that_was_lost_between_calls_is_made_anew(endpoint: Endpoint, transport: Transport) -> None:
    ask(transport)
    endpoint.cut()
    assert ask(transport) != []
    assert endpoint.counts.requests["Create"] == 1, "the shell outlives the connection"


def test_a_request_that_was_cut_in_the_middle_is_not_begun_again(
    endpoint: Endpoint, transport: Transport, engine: Echo
) -> None:
    ask(transport)
    before, channel = len(engine.pipelines), transport._idle[0].channel  # type: ignore[attr-defined]
    send, parts = channel._send, list[bytes]()

    def send_and_cut(part: bytes, until: float) -> None:
        send(part, until)
        parts.append(part)
        if len(parts) == 1:
            endpoint.cut()

    channel._send = send_and_cut
    # where every request logs in anew, the next part takes another connection, and nothing is lost
    with suppress(HostUnreachable):
        ask(transport, Name="".join(map(str, range(200_000))))

    assert len(parts) == 1 or len(engine.pipelines) == before + 1
    assert len(parts) == len(set(parts)), "a part was sent twice"
    assert ask(transport) != []


def test_a_shell_that_is_lost_under_a_call_says_so(endpoint: Endpoint, transport: Transport) -> None:
    ask(transport)
    endpoint.knobs.plant("shell-lost", on="Receive")
    with pytest.raises(HostUnreachable, match="gone"):
        ask(transport)
    assert ask(transport) != []


@pytest.mark.parametrize("kind", ["silent-exit", "truncated-output"])
def test_success_without_an_answer_is_no_success(make_bench: Callable[[Way], Bench], kind: str) -> None:
    bench = make_bench(Way("winrs", "http", "ntlm"))
    endpoint = bench.serve()
    transport = bench.connect(endpoint)
    endpoint.knobs.plant(kind, on="Receive")  # type: ignore[arg-type]
    with pytest.raises(HostUnreachable, match="exit code 0 without an answer"):
        ask(transport)
    assert ask(transport) != []


@pytest.mark.parametrize("transport_name", ["winrs", "psrp"])
def test_an_answer_in_the_clear_to_an_encrypted_request_is_refused(
    make_bench: Callable[[Way], Bench], transport_name: str
) -> None:
    bench = make_bench(Way(transport_name, "http", "ntlm"))
    endpoint = bench.serve()
    for verb in VERBS[transport_name]:
        transport = bench.connect(endpoint)
        endpoint.knobs.plant("plain", on=verb)
        with pytest.raises(HypervisorFailure, match="in the clear"):
            ask(transport)


def test_the_quota_of_shells_is_a_quota(bench: Bench) -> None:
    endpoint = bench.serve(limits=Limits(shells=1))
    first, second = bench.connect(endpoint), bench.connect(endpoint)
    ask(first)
    with pytest.raises(QuotaExceeded, match="MaxShellsPerUser") as caught:
        ask(second)
    assert caught.value.code == 2150859173
    first.close()
    assert ask(second) != [], "once there is room again"


def test_the_quota_of_operations_is_a_quota(bench: Bench) -> None:
    endpoint = bench.serve(limits=Limits(operations=0))
    with pytest.raises(QuotaExceeded) as caught:
        ask(bench.connect(endpoint))
    assert caught.value.code == 2150859174


def test_a_call_waits_for_a_session_as_long_as_its_deadline(bench: Bench, endpoint: Endpoint, engine: Echo) -> None:
    transport = bench.connect(endpoint, shells=1)
    with bench.in_background(lambda: ask(transport, "Wait")):
        assert engine.entered.wait(SECONDS)
        with pytest.raises(Timeout) as caught:
            ask(transport, seconds=0.5)
        assert "sessions are busy" in caught.value.last_state
        engine.go.set()


def test_a_host_that_is_off_is_unreachable(bench: Bench, endpoint: Endpoint) -> None:
    transport = bench.connect(endpoint)
    endpoint.close()
    bench.endpoints.remove(endpoint)
    began = time.monotonic()
    with pytest.raises(HostUnreachable, match="refused"):
        ask(transport)
    assert time.monotonic() - began < SECONDS


def test_a_host_that_dies_under_a_call_is_unreachable(bench: Bench, endpoint: Endpoint, engine: Echo) -> None:
    transport = bench.connect(endpoint)
    with (
        bench.in_background(lambda: (engine.entered.wait(SECONDS), endpoint.close())),
        pytest.raises(HostUnreachable),
    ):
        ask(transport, "Wait")
    bench.endpoints.remove(endpoint)


def test_a_closed_transport_is_refused(transport: Transport, endpoint: Endpoint) -> None:
    ask(transport)
    transport.close()
    assert endpoint.open_shells == 0
    with pytest.raises(HostUnreachable, match="closed"):
        ask(transport)


def test_closing_under_a_call_deletes_its_shell_when_it_ends(bench: Bench, endpoint: Endpoint, engine: Echo) -> None:
    transport = bench.connect(endpoint)
    with bench.in_background(lambda: ask(transport, "Wait")):
        assert engine.entered.wait(SECONDS)
        transport.close()
        engine.go.set()
    until("the shell to be gone", lambda: endpoint.open_shells == 0, seconds=SECONDS)


def test_what_the_host_repeats_of_the_password_is_not_shown(transport: Transport) -> None:
    with pytest.raises(DriverError) as caught:
        ask(transport, "Fail", message=f"bad login with {PASSWORD}", error_id="X,Y", category="NotSpecified")
    assert PASSWORD not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert "***" in str(caught.value)


def test_no_log_line_of_a_whole_session_holds_the_password(
    endpoint: Endpoint, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        ask(transport)
        endpoint.knobs.plant("drop", on="Receive")
        with pytest.raises(HostUnreachable):
            ask(transport)
        transport.close()
    assert PASSWORD not in caplog.text
    assert PASSWORD not in repr(vars(transport))


def test_a_call_that_was_given_up_before_it_had_a_connection_makes_no_shell(
    endpoint: Endpoint, transport: Transport
) -> None:
    channel = transport._make()  # type: ignore[attr-defined]
    channel.abort()
    with pytest.raises(Exception):  # noqa: B017 - the library's own; what matters is what the host saw
        channel.run(messages.bind([Command("Get-VM")], [], 2), time.monotonic() + SECONDS)
    channel.discard()
    assert endpoint.counts.requests.get("Create", 0) == 0
    assert endpoint.open_shells == 0
