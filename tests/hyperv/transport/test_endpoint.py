"""The double's endpoint, seen by the plain client libraries: what it does as Windows does, and what it refuses."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import winrm
import winrm.exceptions
import winrm.protocol
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

from labs.hyperv_double import marker
from labs.hyperv_double.endpoint import Account, Endpoint, Limits, shells
from labs.hyperv_double.engine import Command
from tests.hyperv.transport.conftest import PASSWORD, USER
from tests.hyperv.transport.engine import Echo

OTHER = "somebody"

QUIET: dict[str, Any] = {"proxy": None, "ca_trust_path": None}
"""Without these pywinrm warns of what it finds in the environment."""


@pytest.fixture
def served() -> Iterator[Endpoint]:
    accounts = {USER: Account(PASSWORD), OTHER: Account("another-pass")}
    with Endpoint(Echo(), accounts=accounts, limits=Limits(shells=3, operations=3)) as endpoint:
        yield endpoint


def protocol(endpoint: Endpoint, user: str = USER, password: str = PASSWORD) -> winrm.protocol.Protocol:
    return winrm.protocol.Protocol(
        endpoint.url, transport="ntlm", username=user, password=password, operation_timeout_sec=2, **QUIET
    )


def session(endpoint: Endpoint) -> winrm.Session:
    return winrm.Session(endpoint.url, auth=(USER, PASSWORD), transport="ntlm", **QUIET)


def test_it_runs_no_powershell_and_says_so(served: Endpoint) -> None:
    answer = session(served).run_ps("Get-VM | Remove-VM -Force")
    assert answer.status_code == 1
    assert answer.std_out == b""
    assert b"this double runs no PowerShell" in answer.std_err


def test_it_runs_no_script_in_a_pool_either(served: Endpoint) -> None:
    parts = urlsplit(served.url)
    connection = WSMan(parts.hostname or "", port=parts.port, ssl=False, auth="ntlm", username=USER, password=PASSWORD)
    with connection, RunspacePool(connection) as pool:
        shell = PowerShell(pool)
        shell.add_script("Get-VM | Remove-VM -Force")
        shell.invoke()
        assert "runs no PowerShell" in str(shell.streams.error[0].exception.adapted_properties["Message"])
    assert served.open_shells == 0


def test_a_command_line_longer_than_cmd_takes_is_cut_off_with_an_error(served: Endpoint) -> None:
    client = protocol(served)
    shell = client.open_shell()
    command = client.run_command(shell, "powershell.exe", ["-EncodedCommand", "A" * 8200])
    _, err, code, done = client.get_command_output_raw(shell, command)
    assert (err, code, done) == (b"The command line is too long.\r\n", 1, True)
    client.close_shell(shell)


def test_a_script_that_a_benchmark_announced_runs_once(served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shells.KNOWN_ONCE, "Get-VM", [Command("Get-VM")])
    answer = session(served).run_ps("Get-VM")
    assert (answer.status_code, answer.std_err) == (0, b"")
    assert b'"Name":"Get-VM"' in answer.std_out
    assert served.open_shells == 0


def test_a_shell_belongs_to_who_made_it(served: Endpoint) -> None:
    mine, theirs = protocol(served), protocol(served, OTHER, "another-pass")
    shell = mine.open_shell()
    for attempt in (
        lambda: theirs.run_command(shell, "powershell.exe"),
        lambda: theirs.close_shell(shell),
    ):
        with pytest.raises(winrm.exceptions.WSManFaultError) as caught:
            attempt()
        assert caught.value.wsman_fault_code == 2150858843
    assert served.open_shells == 1
    mine.close_shell(shell)


def test_quotas_are_counted_as_windows_counts_them(served: Endpoint) -> None:
    client = protocol(served)
    made = [client.open_shell() for _ in range(3)]
    with pytest.raises(winrm.exceptions.WSManFaultError) as caught:
        client.open_shell()
    assert caught.value.wsman_fault_code == 2150859173
    for _ in range(3):
        # a terminate signal does not take a command of a text shell off the count
        client.cleanup_command(made[0], client.run_command(made[0], "powershell.exe"))
    with pytest.raises(winrm.exceptions.WSManFaultError) as caught:
        client.run_command(made[0], "powershell.exe")
    assert caught.value.wsman_fault_code == 2150859174
    client.close_shell(made[0], close_session=False)
    command = client.run_command(made[1], "powershell.exe")
    assert command
    for shell in made[1:]:
        client.close_shell(shell, close_session=False)
    client.transport.close_session()


def test_nothing_to_receive_is_an_operation_timeout(served: Endpoint) -> None:
    client = protocol(served)
    shell = client.open_shell()
    line = base64.b64encode("x".encode("utf-16-le")).decode()
    command = client.run_command(shell, "powershell.exe", ["-EncodedCommand", line])
    client.get_command_output_raw(shell, command)
    client.send_command_input(shell, command, b"lost")
    with pytest.raises(winrm.exceptions.WSManFaultError):
        client.get_command_output_raw(shell, "00000000-0000-0000-0000-000000000000")
    client.close_shell(shell)


def test_unencrypted_messages_over_http_are_not_taken(served: Endpoint) -> None:
    client = winrm.protocol.Protocol(
        served.url, transport="ntlm", username=USER, password=PASSWORD, message_encryption="never", **QUIET
    )
    with pytest.raises(winrm.exceptions.WinRMTransportError) as caught:
        client.open_shell()
    assert caught.value.code == 500
    client.transport.close_session()


def test_basic_is_not_offered_over_http(served: Endpoint) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    connection.request("POST", "/wsman", b"", {"Authorization": f"Basic {login}"})
    answer = connection.getresponse()
    assert answer.status == 401
    assert "Basic" not in str(answer.headers.get_all("WWW-Authenticate"))
    assert answer.headers[marker.HEADER] == marker.VALUE
    connection.close()


def test_the_password_is_not_kept_in_the_clear(served: Endpoint) -> None:
    assert PASSWORD not in served.accounts.file.read_text()
    assert served.accounts.file.stat().st_mode & 0o077 == 0


def test_closing_takes_everything_down() -> None:
    endpoint = Endpoint(Echo(), accounts={USER: Account(PASSWORD)})
    client = protocol(endpoint)
    client.open_shell()
    endpoint.close()
    assert endpoint.open_shells == 0
    assert not endpoint.accounts.file.exists()
    with pytest.raises(OSError):
        client.open_shell()
    client.transport.close_session()
