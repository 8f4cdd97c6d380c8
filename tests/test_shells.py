"""Shells: what they return, how they fail, and that nothing outlives them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from conformance.errors import HostDown, LoginRefused, ProbeFailed
from conformance.lab import inventory
from conformance.shells.shell import LocalShell, NamespaceShell, Shell, open_shell
from conformance.shells.ssh import SshShell
from conformance.waiting import until

SSHD = Path("/usr/sbin/sshd")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[inventory.SshShell]:
    """An SSH server of our own on the loopback, with keys of our own."""
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    (folder / "rc").write_text("")
    port = _free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'authorized'}\n"
        f"PidFile {folder / 'pid'}\nUsePAM no\nPasswordAuthentication no\nStrictModes no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until("sshd to listen", answers, seconds=10)
        yield inventory.SshShell(
            address="127.0.0.1",
            port=port,
            user="root",
            key_file=folder / "user",
            host_key=(folder / "host.pub").read_text().strip(),
        )
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(params=["local", "staying", pytest.param("ssh", marks=pytest.mark.lab)])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    if request.param == "ssh":
        found: Shell = SshShell(request.getfixturevalue("sshd"))
    else:
        found = LocalShell(stays=request.param == "staying")
    with closing(found):
        yield found


def test_output_and_input_are_bytes(shell: Shell) -> None:
    data = bytes(range(256)) * 4096

    assert shell.run(["cat"], input=data).stdout == data


def test_arguments_arrive_unchanged(shell: Shell) -> None:
    words = ["two words", "$HOME", "'", '"', "*", "", "\n"]

    assert shell.run(["printf", "%s|", *words]).text == "".join(f"{word}|" for word in words)


def test_failure_says_what_and_where(shell: Shell) -> None:
    with pytest.raises(ProbeFailed, match=r"status 3 on .*: broken"):
        shell.script("echo broken >&2; exit 3")
    assert shell.script("exit 3", check=False).status == 3


def test_late_command_is_given_up(shell: Shell) -> None:
    with pytest.raises(ProbeFailed, match=r"did not end within 0\.3 s"):
        shell.run(["sleep", "60"], timeout_s=0.3)


def test_scripts_have_nothing_of_each_other(shell: Shell) -> None:
    assert shell.script("kept=1; cd /; umask 0; exit 4", check=False).status == 4
    assert shell.script('echo "${kept-none} $# $1"', "a b").text == "none 1 a b\n"
    assert shell.script("cat").text == "", "there is nothing to read"


def test_a_script_that_cannot_be_parsed_is_its_own_failure(shell: Shell) -> None:
    done = shell.script("if then", check=False)
    assert done.status == 2
    assert b"yntax error" in done.stderr
    assert shell.script("echo on").text == "on\n"


def test_scripts_may_write_bytes_of_any_kind_to_both_outputs(shell: Shell) -> None:
    much = "i=0; while [ $i -lt 3000 ]; do printf '\\000\\377%0100d\n' $i; printf 'e%0100d\n' $i >&2; i=$((i+1)); done"
    done = shell.script(f"{much}; printf end")
    assert done.stdout == b"".join(b"\0\xff%0100d\n" % i for i in range(3000)) + b"end"
    assert done.stderr == b"".join(b"e%0100d\n" % i for i in range(3000))


def test_scripts_of_many_threads_run_side_by_side(shell: Shell) -> None:
    gate = "until [ -e $1/go ]; do sleep 0.02; done; echo $2"
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(shell.script, gate, folder, str(number)) for number in range(4)]
        pool.submit(shell.script, "touch $1/go", folder)
        assert [each.result().text for each in waiting] == [f"{number}\n" for number in range(4)]


@pytest.mark.lab
def test_over_ssh_one_interpreter_runs_script_after_script(sshd: inventory.SshShell) -> None:
    with closing(SshShell(sshd)) as shell:
        first = shell.script("echo $$").text
        assert shell.script("echo $$").text == first
        with pytest.raises(HostDown, match="broke"):
            shell.script("kill -KILL $$")
        assert shell.script("echo $$").text != first, "another one takes its place"


@pytest.mark.lab
def test_a_late_script_is_ended_on_the_host(sshd: inventory.SshShell) -> None:
    token = f"28{os.getpid()}"
    with closing(SshShell(sshd)) as shell:
        with pytest.raises(ProbeFailed, match=r"did not end within 0\.5 s"):
            shell.script(f"sleep {token}; echo late", timeout_s=0.5)
        until("it to be gone", lambda: not _running(token), seconds=5)
        assert shell.script("echo on").text == "on\n"


def test_process_talks_both_ways_and_ends(shell: Shell) -> None:
    process = shell.popen(["sh", "-c", "echo $$; cat; exit 0"])
    first = process.stdout.read(64)
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    said = process.stdout.read(64)
    assert process.poll() is None

    process.close()

    assert said == b"hello\n"
    until("the command to end", lambda: not Path(f"/proc/{int(first)}").exists(), seconds=5)


@pytest.mark.parametrize("stays", [False, True])
def test_late_command_leaves_no_process(stays: bool) -> None:
    token = f"29{os.getpid()}"  # a time to sleep that nobody else sleeps
    with closing(LocalShell(stays=stays)) as shell, pytest.raises(ProbeFailed):
        shell.script(f"sleep {token} & wait", timeout_s=0.3)

    assert _running(token) == []


@pytest.mark.parametrize("kind", ["staying", pytest.param("ssh", marks=pytest.mark.lab)])
def test_an_interrupt_ends_the_script_under_it(kind: str, request: pytest.FixtureRequest) -> None:
    token = f"27{os.getpid()}{len(kind)}"
    shell = LocalShell(stays=True) if kind == "staying" else SshShell(request.getfixturevalue("sshd"))

    def interrupt() -> None:
        until("the script to run", lambda: _running(token), seconds=10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with closing(shell), ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            shell.script(f"sleep {token}; echo late", timeout_s=20)
        until("it to be gone", lambda: not _running(token), seconds=5)
        assert shell.script("echo on").text == "on\n"


def test_an_interpreter_stays_until_its_shell_is_closed() -> None:
    with closing(LocalShell(stays=True)) as shell:
        first = int(shell.script("echo $$").text)
        assert int(shell.script("echo $$").text) == first
        with pytest.raises(ProbeFailed, match="the shell ended"):
            shell.script("kill -KILL $$")
        second = int(shell.script("echo $$").text)
        assert second != first, "another one takes its place"
    assert not Path(f"/proc/{second}").exists()


def _running(word: str) -> list[Path]:
    """Processes with a word in their command lines."""
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if word.encode() in _read(path).split(b"\0")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_missing_command_is_told() -> None:
    with pytest.raises(ProbeFailed, match="no command 'hvconform-no-such-thing'"):
        LocalShell().run(["hvconform-no-such-thing"])


@pytest.mark.lab
def test_namespace_that_is_gone_is_a_host_down() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    with pytest.raises(HostDown, match="is gone"):
        NamespaceShell(process.pid).run(["true"])
    with pytest.raises(HostDown, match="is gone"):
        NamespaceShell(process.pid, stays=True).script("true")


def test_unreachable_host_is_a_host_down_with_a_hint() -> None:
    spec = inventory.SshShell(address="127.0.0.1", port=_free_port())

    with pytest.raises(HostDown, match=r"127\.0\.0\.1") as error:
        open_shell(spec).run(["true"])
    assert "ssh -p" in error.value.hint


def test_missing_password_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HVC_TEST_PASSWORD", raising=False)

    with pytest.raises(HostDown) as error:
        SshShell(inventory.SshShell(address="127.0.0.1", password_env="HVC_TEST_PASSWORD")).run(["true"])
    assert "HVC_TEST_PASSWORD" in error.value.hint


@pytest.mark.lab
def test_wrong_host_key_is_refused(sshd: inventory.SshShell, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    spec = sshd.model_copy(update={"host_key": (tmp_path / "other.pub").read_text()})

    with pytest.raises(LoginRefused, match="not the one in the lab file"):
        SshShell(spec).run(["true"])


@pytest.mark.lab
def test_wrong_user_key_is_a_host_down(sshd: inventory.SshShell, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)

    with pytest.raises(LoginRefused, match="refuses the key"):
        SshShell(sshd.model_copy(update={"key_file": tmp_path / "other"})).run(["true"])
