"""The guest probe over SSH: with a scripted shell, with this machine as the guest, and over a real sshd."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from conformance.errors import GuestSilent, HostDown, ProbeFailed
from conformance.lab import inventory
from conformance.observers.guest import Guest
from conformance.observers.peer.client import Peer
from conformance.observers.ssh_guest import SshChannel
from conformance.shells.shell import Completed, LocalShell, Process, Shell
from conformance.shells.ssh import SshShell
from conformance.waiting import until


class Scripted(Shell):
    """Says one thing, whatever is run; remembers the scripts."""

    def __init__(self, says: str | Exception, status: int = 0, complains: str = "") -> None:
        self.says, self.status, self.complains = says, status, complains
        self.ran: list[tuple[str, ...]] = []
        self.closed = 0

    def run(
        self, argv: Sequence[str], input: bytes | None = None, timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        assert not check
        assert timeout_s > 0
        assert input is None
        self.ran.append(tuple(argv))
        if isinstance(self.says, Exception):
            raise self.says
        return Completed(tuple(argv), self.status, self.says.encode(), self.complains.encode())

    def popen(self, argv: Sequence[str]) -> Process:
        raise AssertionError(argv)

    def close(self) -> None:
        self.closed += 1


def guest(says: str | Exception, status: int = 0, complains: str = "") -> Guest:
    return Guest(SshChannel(Scripted(says, status, complains)))


def test_a_boot_that_followed_an_orderly_one() -> None:
    boot = guest("b1\n12.34 5.6\n3\nStopped something.\nReached target reboot.target - System Reboot.\n").boot()
    assert (boot.boot_id, boot.boots, boot.clean, boot.uptime_ms) == ("b1", 3, True, 12340)


def test_a_boot_that_followed_a_crash() -> None:
    assert not guest("b1\n12.34 5.6\n3\nall is well\n").boot().clean


def test_boots_are_not_guessed() -> None:
    with pytest.raises(ProbeFailed, match="not available over SSH: this image keeps no journal"):
        guest("b1\n12.34 5.6\n").boot()


def test_disks() -> None:
    lsblk = (
        '{"blockdevices": [{"name":"vda","serial":"root","size":4096,"ro":false,"type":"disk"},'
        '{"name":"vdb","serial":null,"size":8192,"ro":true,"type":"disk"},'
        '{"name":"loop0","serial":null,"size":1,"ro":false,"type":"loop"}]}'
    )
    paths = "vda /sys/devices/pci0000:00/0000:00:04.0/virtio1\nvdb /sys/devices/vbd-51712\nloop0 "
    root, data = guest(f"{lsblk}\n\n{paths}\n").disks()
    assert (root.serial, root.size_bytes, root.readonly, root.address) == ("root", 4096, False, "0000:00:04.0")
    assert (data.serial, data.size_bytes, data.readonly, data.address) == ("", 8192, True, "vbd-51712")


def test_a_disk_that_is_not_there_is_refused() -> None:
    with pytest.raises(ProbeFailed, match="no disk with the serial 'data0'"):
        guest('{"blockdevices": []}\n\n').hash_disk("data0", 0, 4096)


@pytest.mark.parametrize("verb", ["writer-status", "hang", "beat-stop", "no-such-verb"])
def test_what_needs_an_agent_is_refused(verb: str) -> None:
    with pytest.raises(ProbeFailed, match="not available over SSH"):
        guest("").ask(verb)


def test_a_command_that_fails_is_a_refusal() -> None:
    with pytest.raises(ProbeFailed, match="a password is required"):
        guest("", 1, "sudo: a password is required").identity()


@pytest.mark.parametrize("error", [HostDown("cannot be reached"), ProbeFailed("did not end within 5 s")])
def test_no_connection_is_silence_and_the_connection_is_dropped(error: Exception) -> None:
    shell = Scripted(error)
    with pytest.raises(GuestSilent):
        Guest(SshChannel(shell)).memory()
    assert shell.closed == 1


def test_what_makes_no_sense_is_a_refusal() -> None:
    for says in ("", "garbage", "\n\n\n"):
        for ask in (guest(says).memory, guest(says).clocks, guest(says).disks, guest(says).nics, guest(says).boot):
            with pytest.raises(ProbeFailed):
                ask()


def test_arguments_never_become_commands() -> None:
    shell = Scripted("")
    with pytest.raises(ProbeFailed, match="letters, digits"):
        Guest(SshChannel(shell)).put_ram("x/../../etc", "1")
    Guest(SshChannel(shell)).print_console("$(reboot)")
    assert shell.ran[-1][-1] == "$(reboot)"
    assert "reboot" not in shell.ran[-1][2]


@pytest.fixture
def tidy() -> Iterator[None]:
    yield
    shutil.rmtree("/dev/shm/hvconform", ignore_errors=True)


def look_around(probe: Guest) -> None:
    """Whatever can be asked of any Linux."""
    assert probe.cpus().online == os.cpu_count()
    assert probe.memory().total_kib > 0
    before = probe.clocks()
    assert probe.clocks().monotonic_ns > before.monotonic_ns
    probe.put_ram("hvconform-test", "there-1")
    assert probe.get_ram("hvconform-test") == "there-1"
    assert probe.get_ram("hvconform-nothing") is None


@pytest.mark.usefixtures("tidy")
def test_this_machine_as_the_guest() -> None:
    look_around(Guest(SshChannel(LocalShell())))


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[SshShell]:
    """A shell through an sshd of our own on loopback."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists():
        raise HostDown("this test needs sshd", hint="apt install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    (tmp_path / "authorized").write_text((tmp_path / "user.pub").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [
        "ListenAddress=127.0.0.1",
        f"HostKey={tmp_path / 'host'}",
        f"AuthorizedKeysFile={tmp_path / 'authorized'}",
        "PidFile=none",
        "UsePAM=no",
        "StrictModes=no",
    ]
    Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation wants it
    arguments = [argument for option in options for argument in ("-o", option)]
    process = subprocess.Popen(
        [program, "-D", "-e", "-f", "/dev/null", "-p", str(port), *arguments], stderr=subprocess.DEVNULL
    )

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    shell = SshShell(
        inventory.SshShell(
            address="127.0.0.1",
            port=port,
            user=getpass.getuser(),
            key_file=tmp_path / "user",
            host_key=(tmp_path / "host.pub").read_text(),
        )
    )
    try:
        until("sshd to listen", listening, seconds=10)
        yield shell
    finally:
        shell.close()
        process.terminate()
        process.wait()


@pytest.mark.lab
@pytest.mark.usefixtures("tidy")
def test_over_a_real_sshd(sshd: SshShell) -> None:
    probe = Guest(SshChannel(sshd))
    look_around(probe)
    with pytest.raises(ProbeFailed, match="not available over SSH"):
        probe.hang()


@pytest.mark.lab
def test_a_peer_behind_ssh(sshd: SshShell) -> None:
    peer = Peer("loopback", "lo", sshd, python=sys.executable)
    try:
        assert peer.ping("127.0.0.1")
        assert not peer.ping("127.0.0.1", timeout_s=0)
    finally:
        peer.close()


@pytest.mark.lab
def test_a_command_that_takes_too_long_over_ssh_is_silence(sshd: SshShell) -> None:
    from conformance.observers.ssh_guest import _Run

    with pytest.raises(GuestSilent):
        _Run(sshd, 0.3)("sleep 5")
    assert _Run(sshd, 5)("echo here") == "here\n"
