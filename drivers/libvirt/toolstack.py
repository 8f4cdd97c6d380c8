"""What libvirt's API neither shows nor mends on a Xen host: asked of `xl`, xenstore and libxl's own processes there.

This is the driver's own way into dom0, with credentials from its target's options; the probes have theirs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from conformance.errors import AccessDenied, HostDown, HostUnreachable, HypervisorFailure, LabError, LoginRefused
from conformance.shells.shell import Shell

REBOOT, SUSPEND = 1, 2
"""Why a domain has shut down: `SHUTDOWN_reboot` and `SHUTDOWN_suspend` of Xen's public/sched.h."""

# the columns of `xl list -v`; a name may hold anything, the rest may not
_LINE = re.compile(
    r"^.*? +(?P<id>\d+) +\d+ +\d+ +(?P<state>[rbpscd-]{6}) +[\d.]+ +(?P<uuid>[0-9a-f-]{36}) +(?P<reason>[0-9a-f]+|-) ",
    re.MULTILINE,
)

_FIND_HELPER = r"""
for p in /proc/[0-9]*; do
    { read -r comm < "$p/comm"; } 2>/dev/null || continue
    [ "$comm" = libxl-save-help ] || continue
    words=$(tr '\0' ' ' < "$p/cmdline" 2>/dev/null)
    # behind --save-domain or --restore-domain: the descriptors of the stream and of the way back, the domain
    set -- "$1" ${words##*-domain }
    [ "$4" != "$1" ] || echo "${p#/proc/}"
done
"""

# libvirt 9.0 and `xl` of 4.17 have no command for what libxl has a call for
_RESUME = """
import ctypes, sys
version = ".".join(open(f"/sys/hypervisor/version/{part}").read().strip() for part in ("major", "minor"))
xl, log, libc = (ctypes.CDLL(name) for name in (f"libxenlight.so.{version}", "libxentoollog.so.1", None))
log.xtl_createlogger_stdiostream.restype = ctypes.c_void_p
to = ctypes.c_void_p(log.xtl_createlogger_stdiostream(ctypes.c_void_p.in_dll(libc, "stderr"), 4, 0))
context = ctypes.c_void_p()
sys.exit(bool(
    xl.libxl_ctx_alloc(ctypes.byref(context), 0, 0, to) or xl.libxl_domain_resume(context, int(sys.argv[1]), 1, None)
))
"""

_RECORDS = r"""
xenstore-list /libxl
for p in /proc/[0-9]*; do
    { read -r comm < "$p/comm"; } 2>/dev/null || continue
    case $comm in *qemu*) ;; *) continue ;; esac
    set -- $(tr '\0' ' ' < "$p/cmdline")
    while [ $# -gt 1 ]; do [ "$1" != -xen-domid ] || echo "$2"; shift; done
done
"""

_REMOVE = r"""
for n; do
    pkill -KILL -f -- "qemu.* -xen-domid $n "
    rm -f /run/xen/qmp-*-"$n" /var/lib/xen/userdata-?."$n".*
    for path in "/libxl/$n" "/local/domain/$n" "/local/domain/0/device-model/$n"; do xenstore-rm "$path"; done
    for kind in $(xenstore-list /local/domain/0/backend); do xenstore-rm "/local/domain/0/backend/$kind/$n"; done
done 2>/dev/null
"""


_CHECK = """
for tool in xl xenstore-list xenstore-rm xenstore-write pkill python3; do
    command -v "$tool" > /dev/null || { echo "there is no $tool" >&2; exit 1; }
done
xl list -v > /dev/null
"""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as the hypervisor shows it.

    `why` is the reason for which it has shut down (`REBOOT`, `SUSPEND`, ...), None while it can run.
    """

    id: int
    uuid: str
    why: int | None
    dying: bool
    paused: bool = False


class Toolstack:
    """The toolstacks of all hosts of a target.

    Every method raises `AccessDenied`, `HostUnreachable`, or `HypervisorFailure` for what fails there.

    Args:
        shells: A shell in each host's dom0, as root.
    """

    def __init__(self, shells: Mapping[str, Shell]) -> None:
        self._shells = shells

    def reach(self, hosts: Iterable[str]) -> None:
        """Log in to hosts, all at once: later is too late where that takes as long as what is to be looked at."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: self._script(host, ":"), hosts))

    def check(self, host: str) -> None:
        """Raise for what is missing on a host."""
        self._script(host, _CHECK)

    def domains(self, host: str) -> list[Domain]:
        """All domains but dom0, also those that libvirt does not list."""
        lines = _LINE.finditer(self._script(host, "xl list -v"))
        return [
            Domain(
                id=int(line["id"]),
                uuid=line["uuid"],
                why=None if line["reason"] == "-" else int(line["reason"], 16),
                dying="d" in line["state"],
                paused="p" in line["state"],
            )
            for line in lines
            if line["id"] != "0"
        ]

    def domain(self, host: str, uuid: str) -> Domain | None:
        """The domain of a VM, one that can run before one that cannot."""
        found = [each for each in self.domains(host) if each.uuid == uuid]
        return min(found, key=lambda each: each.dying, default=None)

    def resume(self, host: str, id: int) -> None:
        """Let a domain that was suspended to be sent go on where it was."""
        self._run(host, "python3", "-c", _RESUME, str(id))

    def helper(self, host: str, id: int) -> int | None:
        """The process that sends or receives a domain's state: its PID, or None when there is none."""
        found = self._script(host, _FIND_HELPER, str(id)).split()
        return int(found[0]) if found else None

    def moved(self, host: str, pid: int) -> int | None:
        """Bytes that such a process has read and written so far; None when it is no more."""
        script = 'while read -r _ bytes; do echo "$bytes"; done < "/proc/$1/io"'
        words = self._script(host, script, str(pid), check=False).split()
        return int(words[0]) + int(words[1]) if len(words) > 1 else None

    def asks(self, host: str, pid: int) -> bool:
        """Whether such a process waits for what libxl answers, such as that the guest has suspended itself."""
        return "pipe" in self._script(host, 'read -r where < "/proc/$1/wchan"; echo "$where"', str(pid), check=False)

    def answer(self, host: str, id: int, *, gone: bool) -> None:
        """Have libxl look at a guest that it has asked to suspend itself, as if that had answered.

        Of a guest that has ended it would wait for an answer for 60 s, and libvirt has stopped to look by then.

        Args:
            gone: Whether there is no such domain any more; then no node is the answer.
        """
        how = 'xenstore-rm "$1"' if gone else "xenstore-write \"$1/control/shutdown\" ''"
        self._script(host, how, f"/local/domain/{id}", check=False)

    def kill(self, host: str, pid: int) -> None:
        """End such a process; libxl then fails what it was for, and cleans up.

        Never one that `asks`: libxl 4.17 answers it all the same later, and takes libvirtd down with that.
        """
        self._script(host, 'kill -KILL "$1"', str(pid), check=False)

    def records(self, host: str) -> frozenset[int]:
        """Numbers of the domains that libxl keeps a record of or that a device model runs for, alive or not."""
        return frozenset(int(word) for word in self._script(host, _RECORDS, check=False).split())

    def clean(self, host: str, uuid: str, before: Collection[int]) -> None:
        """Take away what a migration that failed has left on its target.

        That is the VM's domain, if it is paused as all are that arrive: one that has run may be all that there is.
        And it is what libxl keeps of domains that are no more: while it makes one that somebody destroys, neither of
        the two cleans up behind the other.

        Args:
            before: What `records` told before the migration; those are let alone.
        """
        for each in self.domains(host):
            if each.uuid == uuid and each.paused and not each.dying:
                self._run(host, "xl", "destroy", str(each.id))
        left = self.records(host) - set(before) - {each.id for each in self.domains(host)}
        if left:
            self._script(host, _REMOVE, *(str(number) for number in sorted(left)), check=False)

    def watches(self, host: str, id: int) -> int | None:
        """How many watches a guest has in xenstore, one for each device that its kernel drives among them.

        None where the store does not tell: only the one in C counts them.
        """
        told = self._script(host, 'xenstore-control quota "$1"', str(id), check=False)
        found = re.search(r"^watches *: *(\d+)", told, re.MULTILINE)
        return int(found[1]) if found else None

    def close(self) -> None:
        for shell in self._shells.values():
            shell.close()

    def _script(self, host: str, text: str, *args: str, check: bool = True) -> str:
        with _translated(host):
            return self._shells[host].script(text, *args, check=check).text

    def _run(self, host: str, *argv: str) -> None:
        with _translated(host):
            self._shells[host].run(argv, timeout_s=60)


@contextmanager
def _translated(host: str) -> Iterator[None]:
    """A shell's errors in the words of a driver."""
    try:
        yield
    except LoginRefused as error:
        raise AccessDenied(str(error), host=host) from error
    except HostDown as error:
        raise HostUnreachable(str(error), host=host) from error
    except LabError as error:
        raise HypervisorFailure(str(error), host=host) from error
