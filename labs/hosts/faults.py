"""Faults on a host that is reached by a shell, each with the proof that it fired."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from conformance.errors import FaultNotFired, ProbeFailed
from conformance.shells.shell import Shell
from conformance.waiting import WaitTimeout, until

MIGRATION_PORTS = "49152-49215"
"""libvirt's default range, for memory and for disks."""

_BOUND_GIB = 64
_UNIT = re.compile(r"[A-Za-z0-9@_.-]+")
_SECONDS = 60.0

_PIDS = """
for p in /proc/[0-9]*; do
    { read -r comm < "$p/comm"; } 2>/dev/null || continue
    for name in "$@"; do [ "$comm" != "$name" ] || echo "${p#/proc/}"; done
done
"""


def end_process(shell: Shell, pid: int, what: str) -> None:
    """Kill one process at once; raises `FaultNotFired` when it lives on."""
    shell.script('kill -9 "$1"', str(pid), check=False)
    gone(shell, pid, what)


def restart_daemon(shell: Shell, host: str, service: str, names: Sequence[str], answers: Sequence[str]) -> None:
    """Kill the management daemon without warning, start it again, wait until it answers.

    Args:
        service: How the lab file says that it is started.
        names: What its process may be called.
        answers: A command that succeeds once it answers.
    """
    before = _daemons(shell, names)
    if not before:
        raise FaultNotFired(f"no {' or '.join(names)} runs on host {host}")
    if not service:
        raise ProbeFailed(
            f"the lab file does not say how the daemon of host {host} is restarted",
            hint='set service = "libvirtd" (a systemd unit or a command line) for that host',
        )
    for pid in before:
        end_process(shell, pid, f"the daemon of host {host}")
    _start_daemon(shell, host, service, answers)
    if set(before) & set(_daemons(shell, names)):
        raise FaultNotFired(f"the daemon of host {host} was not restarted")


def revive_daemon(shell: Shell, host: str, service: str, names: Sequence[str], answers: Sequence[str]) -> bool:
    """Start a management daemon that has died; whether there was one to start. Arguments as for `restart_daemon`."""
    # one that is started when it is asked, and ends when it is idle, is not dead
    if not service or shell.run(answers, check=False).status == 0 or _daemons(shell, names):
        return False
    _start_daemon(shell, host, service, answers)
    return True


def _start_daemon(shell: Shell, host: str, service: str, answers: Sequence[str]) -> None:
    if _UNIT.fullmatch(service):
        shell.run(["systemctl", "restart", service])
    else:
        shell.script(service, check=False)
    until(
        f"libvirt on host {host} to answer again",
        lambda: shell.run(answers, check=False).status == 0,
        seconds=_SECONDS,
    )


@contextmanager
def cut(shell: Shell, addresses: Sequence[str]) -> Iterator[None]:
    """Drop the migration traffic with another host, both ways; the rules' counter proves that packets are dropped.

    Args:
        addresses: The other host's, IPv4 and IPv6.
    """
    table = f"hvconform_cut_{uuid.uuid4().hex[:8]}"
    rules = []
    for address in addresses:
        family = "ip6" if ":" in address else "ip"
        for port in ("dport", "sport"):
            rules += [f"add rule inet {table} out {family} daddr {address} tcp {port} {MIGRATION_PORTS} counter drop"]
            rules += [f"add rule inet {table} in {family} saddr {address} tcp {port} {MIGRATION_PORTS} counter drop"]
    lines = [f"add table inet {table}"]
    for chain, hook in (("out", "output"), ("in", "input")):
        lines.append(f"add chain inet {table} {chain} {{ type filter hook {hook} priority -300 ; }}")
    shell.run(["nft", "-f", "-"], input="\n".join([*lines, *rules, ""]).encode())
    try:
        port = MIGRATION_PORTS.split("-")[0]
        for address in addresses:
            # nobody need listen there: without the cut the other host's reset would come back at once
            probe = f"exec 3<>/dev/tcp/{address}/{port}"
            tried = shell.run(["timeout", "0.3", "bash", "-c", probe], check=False)
            if tried.status != 124:
                raise FaultNotFired(f"the link to {address} was cut and still answers")
        if not re.search(r"packets [1-9]", shell.run(["nft", "list", "table", "inet", table]).text):
            raise FaultNotFired(f"the cut of the link to {', '.join(addresses)} dropped nothing")
        yield
    finally:
        shell.run(["nft", "delete", "table", "inet", table])


@contextmanager
def fill(shell: Shell, folder: str) -> Iterator[None]:
    """Leave no free block on the file system of a folder, and prove it by a write that fails.

    Only on a file system of the storage's own of at most 64 GiB: a host whose root is full breaks for everybody.
    """
    facts = shell.script('stat -c %d / "$1" && stat -f -c "%S %b" "$1"', folder).text.split()
    root, own, block, blocks = (int(word) for word in facts)
    if root == own or block * blocks > _BOUND_GIB << 30:
        raise ProbeFailed(
            f"{folder} will not be filled: it is on the root file system, or larger than {_BOUND_GIB} GiB",
            hint="put the storage on a small file system of its own",
        )
    path = f"{folder}/.hvconform-full"
    try:
        shell.script(
            'free=$(stat -f -c "%a * %S" "$2"); fallocate -l "$(($free))" "$1";'
            'dd if=/dev/zero of="$1" bs=4096 oflag=append conv=notrunc 2>/dev/null',
            path,
            folder,
            check=False,
            timeout_s=300,
        )
        probe = 'dd if=/dev/zero of="$1" bs=4096 count=1 conv=fsync 2>/dev/null; s=$?; rm -f "$1"; exit $s'
        if shell.script(probe, f"{path}-probe", check=False).status == 0:
            raise FaultNotFired(f"{folder} was filled and still takes data")
        yield
    finally:
        shell.run(["rm", "-f", path])


@contextmanager
def taken_away(shell: Shell, path: str) -> Iterator[None]:
    """Move a file aside within its folder, and put it back."""
    aside = f"{path}.hvconform-away"
    if shell.script('mv -T -- "$1" "$2"', path, aside, check=False).status != 0:
        raise FaultNotFired(f"{path} could not be moved aside: is it there?")
    try:
        yield
    finally:
        shell.script('mv -f -T -- "$2" "$1"', path, aside)


def _daemons(shell: Shell, names: Sequence[str]) -> list[int]:
    return [int(word) for word in shell.script(_PIDS, *names).text.split()]


# A zombie whose parent is slow is gone as well, but only with its last thread: until then its files and its locks are
# held, and a daemon that is started again would not get its PID file.
_IS_GONE = """
stat=$(cat "/proc/$1/stat" 2>/dev/null) || exit 0
stat=${stat##*) }
[ "${stat%% *}" = Z ] || exit 1
set -- "/proc/$1/task/"*
[ $# -le 1 ]
"""


def gone(shell: Shell, pid: int, what: str) -> None:
    """Wait until a process that was ended is gone; raises `FaultNotFired` when it lives on."""
    try:
        until(
            f"{what} to be gone",
            lambda: shell.script(_IS_GONE, str(pid), check=False).status,
            lambda status: status == 0,
            seconds=_SECONDS,
        )
    except WaitTimeout as error:
        raise FaultNotFired(f"{what} (process {pid}) was killed and lives on") from error
