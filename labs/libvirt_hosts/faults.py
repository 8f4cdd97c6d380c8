"""Faults on a libvirt host with QEMU, each with the proof that it fired."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

from conformance.errors import FaultNotFired
from conformance.shells.shell import Shell
from labs.hosts.faults import gone

VIRSH = ("virsh", "-c", "qemu:///system")


def destroy(shell: Shell, domain: str, pid: int) -> None:
    """Stop a VM with virsh; raises `FaultNotFired` when its process lives on."""
    done = shell.run([*VIRSH, "destroy", domain], check=False)
    if done.status != 0:
        raise FaultNotFired(f"virsh destroy {domain}: {done.stderr.decode(errors='replace').strip()[-200:]}")
    gone(shell, pid, f"VM {domain}")


@contextmanager
def canary(shell: Shell, name: str, folder: str, seen: Callable[[str], bool]) -> Iterator[str]:
    """A VM, its disk and a file that no driver made; yields its UUID.

    It is started paused, so that everything about it stays as it is, CPU time included.

    Args:
        folder: Where its disk and file go.
        seen: Whether a VM with a UUID runs.
    """
    number = str(uuid.uuid4())
    disk, note = str(PurePath(folder) / f"{name}.qcow2"), str(PurePath(folder) / f"{name}.txt")
    xml = (
        f"<domain type='qemu'><name>{name}</name><uuid>{number}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>"
        "<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>"
        f"<driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
        "<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
    )
    try:
        shell.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"])
        shell.run(["sh", "-c", 'cat > "$1"', "sh", note], input=f"{number}\n".encode())
        shell.run([*VIRSH, "define", "/dev/stdin"], input=xml.encode())
        shell.run([*VIRSH, "start", "--paused", number])
        if not seen(number):
            raise FaultNotFired(f"the canary {name} does not run")
        yield number
    finally:
        shell.run([*VIRSH, "destroy", number], check=False)
        shell.run([*VIRSH, "undefine", number], check=False)
        shell.run(["rm", "-f", disk, note])
