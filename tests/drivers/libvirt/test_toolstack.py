"""What is asked of a Xen host: real scripts on this machine, before an `xl` and a store that are doubles."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.errors import AccessDenied, DriverError, HostDown, HostUnreachable, HypervisorFailure, LoginRefused
from conformance.shells.shell import Completed, LocalShell
from conformance.waiting import until
from drivers.libvirt.toolstack import REBOOT, SUSPEND, Domain, Toolstack

VM, OTHER = "57cf7b17-08ae-5427-9b6c-abb33ef6dadc", "27fec1bd-d7fc-4fc1-ac7c-1a054dea2ec9"
MINE, GONE, BEFORE = 7654321, 7654322, 7654323
"""Domains with numbers that no host of this machine has."""

LIST = """\
Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label
Domain-0                                     0   768     1     r-----     735.6 00000000-0000-0000-0000-000000000000        -                -
a name 12 of  spaces                   7654321    96     1     ---ss-       6.1 57cf7b17-08ae-5427-9b6c-abb33ef6dadc        2                -
other                                       13  1024     2     -b----    6000.9 27fec1bd-d7fc-4fc1-ac7c-1a054dea2ec9        -                -
"""  # noqa: E501 - as xl prints it

XL = """#!/bin/sh
case $1 in
    list) cat "$HOST/list" ;;
    destroy) echo "destroy $2" >> "$HOST/did"; sed -i "/ $2 /d" "$HOST/list" ;;
esac
"""
STORE_LIST = """#!/bin/sh
ls "$HOST/store$1"
"""
STORE_CHANGE = """#!/bin/sh
echo "${0##*/} $*" >> "$HOST/did"
[ "${0##*-}" != rm ] || rm -r "$HOST/store$1"
"""
# the store in C; the one in OCaml knows no such command
STORE_CONTROL = """#!/bin/sh
[ "$1 $2" = "quota 13" ] || exit 1
printf 'Domain 13:\\nnodes           :       47\\nwatches         :       %s\\ntransactions    :        0\\n' "$(cat "$HOST/watches")"
"""  # noqa: E501
# it waits for an answer, as one does that has asked libxl something
HELPER = """#!/bin/sh
read -r answer
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the host is: `list`, `store`, and `did` for what was done."""
    tools = {
        "xl": XL,
        "xenstore-control": STORE_CONTROL,
        "xenstore-list": STORE_LIST,
        "xenstore-rm": STORE_CHANGE,
        "xenstore-write": STORE_CHANGE,
    }
    for name, text in {**tools, "libxl-save-helper": HELPER, "qemu-system-i386": HELPER}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "list").write_text(LIST)
    (tmp_path / "did").touch()
    for path in (f"libxl/{MINE}", f"libxl/{GONE}", f"libxl/{BEFORE}", f"local/domain/0/backend/vif/{GONE}"):
        (tmp_path / "store" / path).mkdir(parents=True)
    monkeypatch.setenv("HOST", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin")
    return tmp_path


@pytest.fixture
def tools(host: Path) -> Iterator[Toolstack]:  # noqa: ARG001 - its commands come first in PATH
    found = Toolstack({"a": LocalShell(stays=True)})
    yield found
    found.close()


def runs(host: Path, name: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([str(host / "bin" / name), *args], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def helper(host: Path) -> Iterator[subprocess.Popen[bytes]]:
    yield from runs(host, "libxl-save-helper", "--save-domain", "46", "28", str(MINE), "1", "136", "0")


@pytest.fixture
def device_model(host: Path) -> Iterator[subprocess.Popen[bytes]]:
    yield from runs(host, "qemu-system-i386", "-xen-domid", str(GONE + 10), "-name", "vm")


def test_domains_are_told_with_why_they_shut_down(tools: Toolstack) -> None:
    assert tools.domains("a") == [Domain(MINE, VM, SUSPEND, False), Domain(13, OTHER, None, False)]
    assert tools.domain("a", VM) == Domain(MINE, VM, SUSPEND, False)
    assert tools.domain("a", "00000000-0000-0000-0000-000000000000") is None  # not even dom0


def test_of_two_domains_of_a_vm_the_one_that_lives_counts(tools: Toolstack, host: Path) -> None:
    dying = LIST.splitlines()[2].replace("---ss-", "--ps-d").replace("       2  ", "       1  ")
    living = LIST.splitlines()[3].replace(OTHER, VM)
    (host / "list").write_text(f"{dying}\n{living}\n")
    assert tools.domains("a")[0] == Domain(MINE, VM, REBOOT, True, True)
    assert tools.domain("a", VM) == Domain(13, VM, None, False)


def test_the_process_that_sends_a_domain_is_found_by_its_number(
    tools: Toolstack, helper: subprocess.Popen[bytes]
) -> None:
    until("the helper to be there", lambda: tools.helper("a", MINE), lambda pid: pid == helper.pid, seconds=10)
    for other in (46, 28, 1, 136, GONE):
        assert tools.helper("a", other) is None


def test_what_it_has_moved_and_what_it_waits_for(tools: Toolstack, helper: subprocess.Popen[bytes]) -> None:
    before = until("it to ask", lambda: tools.asks("a", helper.pid) and tools.moved("a", helper.pid), seconds=10)
    assert isinstance(before, int)
    assert before > 0  # it has read its own text

    tools.kill("a", helper.pid)

    assert helper.wait(10) == -9
    assert tools.moved("a", helper.pid) is None
    assert not tools.asks("a", helper.pid)


def test_what_a_guest_watches_is_counted_where_the_store_does_so(tools: Toolstack, host: Path) -> None:
    (host / "watches").write_text("12")
    assert tools.watches("a", 13) == 12
    assert tools.watches("a", MINE) is None


def test_records_are_of_libxl_and_of_device_models(tools: Toolstack, device_model: subprocess.Popen[bytes]) -> None:
    assert device_model.poll() is None
    expected = {MINE, GONE, BEFORE, GONE + 10}
    until("all of them", lambda: tools.records("a"), lambda found: found == expected, seconds=10)


def test_a_target_is_cleaned_of_what_the_migration_left(
    tools: Toolstack, host: Path, device_model: subprocess.Popen[bytes]
) -> None:
    until("the device model", lambda: GONE + 10 in tools.records("a"), seconds=10)
    (host / "list").write_text(LIST.replace("---ss-", "--p---").replace("       2  ", "       -  "))

    tools.clean("a", VM, {BEFORE})

    did = (host / "did").read_text()
    assert f"destroy {MINE}\n" in did
    assert "destroy 13" not in did  # another's
    assert not (host / "store" / "libxl" / str(GONE)).exists()
    assert not (host / "store" / "local/domain/0/backend/vif" / str(GONE)).exists()
    assert (host / "store" / "libxl" / str(BEFORE)).exists()  # it was there before
    assert device_model.wait(10) == -9


def test_nothing_is_taken_from_a_domain_that_has_run(tools: Toolstack, host: Path) -> None:
    for vm in (VM, OTHER):
        tools.clean("a", vm, {BEFORE, GONE})
    assert (host / "did").read_text() == ""


def test_nor_from_one_that_is_anothers_or_ends_already(tools: Toolstack, host: Path) -> None:
    (host / "list").write_text(LIST.replace("---ss-", "--p--d").replace("-b----", "--p---"))
    tools.clean("a", VM, {BEFORE, GONE})
    assert (host / "did").read_text() == ""


def test_a_guest_that_ended_is_answered_for(tools: Toolstack, host: Path) -> None:
    tools.answer("a", MINE, gone=False)
    tools.answer("a", MINE, gone=True)
    did = (host / "did").read_text().splitlines()
    assert did == [
        f"xenstore-write /local/domain/{MINE}/control/shutdown ",
        f"xenstore-rm /local/domain/{MINE}",
    ]


def test_a_suspended_domain_is_resumed_through_libxl(tools: Toolstack, host: Path) -> None:
    python = host / "bin" / "python3"
    python.write_text('#!/bin/sh\necho "$3 $2" >> "$HOST/did"\n')
    python.chmod(0o755)
    tools.resume("a", MINE)
    assert (host / "did").read_text().startswith(f"{MINE} ")
    python.write_text("#!/bin/sh\necho no such library >&2; exit 1\n")
    with pytest.raises(HypervisorFailure, match="no such library"):
        tools.resume("a", MINE)


def test_what_is_missing_on_a_host_is_named(tools: Toolstack, host: Path) -> None:
    tools.check("a")
    (host / "bin" / "xenstore-rm").unlink()
    with pytest.raises(HypervisorFailure, match="there is no xenstore-rm"):
        tools.check("a")


class Silent(LocalShell):
    """A host that cannot be asked."""

    def __init__(self, error: HostDown) -> None:
        super().__init__()
        self.error = error

    def script(self, *_: object, **__: object) -> Completed:
        raise self.error


@pytest.mark.parametrize(("error", "drivers"), [(HostDown, HostUnreachable), (LoginRefused, AccessDenied)])
def test_a_host_that_cannot_be_asked_is_a_drivers_error(error: type[HostDown], drivers: type[DriverError]) -> None:
    for ask in (lambda tools: tools.domains("a"), lambda tools: tools.reach(("a",))):
        with pytest.raises(drivers, match="port 22"):
            ask(Toolstack({"a": Silent(error("root@a port 22"))}))


def test_what_fails_there_is_a_drivers_error(tools: Toolstack, host: Path) -> None:
    (host / "bin" / "xl").write_text("#!/bin/sh\necho no permission >&2; exit 1\n")
    with pytest.raises(HypervisorFailure, match="no permission"):
        tools.domains("a")
