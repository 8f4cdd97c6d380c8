"""Faults on a Xen host, each with the proof that it fired."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

from conformance.errors import FaultNotFired
from conformance.shells.shell import Shell
from conformance.waiting import WaitTimeout, until

_SECONDS = 30.0


# the hypercall that Xen makes of a guest that cannot go on, which no command of Xen's makes: 3 is SHUTDOWN_crash of
# xen/include/public/sched.h
_CRASH = """
import ctypes, sys
version = ".".join(open(f"/sys/hypervisor/version/{part}").read().strip() for part in ("major", "minor"))
xc = ctypes.CDLL(f"libxenctrl.so.{version}", use_errno=True)
xc.xc_interface_open.restype = ctypes.c_void_p
handle = xc.xc_interface_open(None, None, 0)
if not handle or xc.xc_domain_shutdown(ctypes.c_void_p(handle), int(sys.argv[1]), 3):
    sys.exit(f"errno {ctypes.get_errno()}")
"""


def crash(shell: Shell, domain: int, what: str, alive: Callable[[], bool]) -> None:
    """Let a domain crash: none of its vCPUs runs again, and nobody is told but the toolstack that looks after it.

    Raises `FaultNotFired` when it lives on, also for want of Python in dom0.

    Args:
        alive: Whether it can still run.
    """
    done = shell.run(["python3", "-c", _CRASH, str(domain)], check=False, timeout_s=60)
    if done.status or alive():
        said = done.stderr.decode(errors="replace").strip()[-200:]
        raise FaultNotFired(f"{what} (domain {domain}) was to crash and lives on: {said}")


def destroy(shell: Shell, domain: int, what: str, there: Callable[[], bool]) -> None:
    """Take a domain's life with `xl`, at once and unasked; raises `FaultNotFired` when it lives on.

    Args:
        there: Whether it still is.
    """
    done = shell.run(["xl", "destroy", str(domain)], check=False, timeout_s=60)
    try:
        until(f"{what} to be gone", there, lambda still: not still, seconds=_SECONDS)
    except WaitTimeout as error:
        said = done.stderr.decode(errors="replace").strip()[-200:]
        raise FaultNotFired(f"{what} (domain {domain}) was destroyed and lives on: {said}") from error


@contextmanager
def canary(shell: Shell, name: str, folder: str, kernel: str, seen: Callable[[str], bool]) -> Iterator[str]:
    """A VM, its disk and a file that no driver made; yields its UUID. libvirt never hears of it.

    It is started paused, so that everything about it stays as it is, CPU time included.

    Args:
        folder: Where its disk and file go.
        kernel: A kernel on the host that a PV guest could boot; empty makes it an HVM guest, which needs none.
        seen: Whether a VM with a UUID runs.
    """
    number = str(uuid.uuid4())
    disk, note = str(PurePath(folder) / f"{name}.qcow2"), str(PurePath(folder) / f"{name}.txt")
    kind = f'type = "pv"\nkernel = "{kernel}"\nmemory = 96\n' if kernel else 'type = "hvm"\nvnc = 0\nmemory = 32\n'
    config = (
        f'{kind}name = "{name}"\nuuid = "{number}"\nvcpus = 1\n'
        f'disk = ["format=qcow2,vdev=xvda,access=rw,backendtype=qdisk,target={disk}"]\n'
    )
    try:
        shell.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"])
        shell.run(["sh", "-c", 'cat > "$1"', "sh", note], input=f"{number}\n".encode())
        # -e: nobody waits for its end
        create = 'f=$(mktemp) && cat > "$f" && xl create -p -e -q "$f"; s=$?; rm -f "$f"; exit $s'
        shell.run(["sh", "-c", create], input=config.encode(), timeout_s=120)
        if not seen(number):
            raise FaultNotFired(f"the canary {name} does not run")
        yield number
    finally:
        shell.run(["xl", "destroy", name], check=False, timeout_s=60)
        shell.run(["rm", "-f", disk, note, f"/var/log/xen/xl-{name}.log", f"/var/log/xen/qemu-dm-{name}.log"])
