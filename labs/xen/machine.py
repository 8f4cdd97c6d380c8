"""A nested host as a machine: QEMU's command line, its monitor, and how it is found again and ended.

No root: the machine's network is QEMU's own, which lets nobody in but by two ports on this machine's loopback and
nobody out at all; the hosts are linked by a unix socket.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.errors import LabError
from labs.nested import processes
from labs.nested.accel import EMULATOR, Accelerator
from labs.xen.layout import FIRST, LIBVIRT_PORT, SOCKET_PATH_MAX, SSH_PORT, Cell, link_mac

MEMORY_MIB = 2048
DOM0_MIB = 768
_XEN_MIB = 128
"""What Xen itself and its heaps take, generously."""
GUESTS_MIB = MEMORY_MIB - DOM0_MIB - _XEN_MIB

# bootscrub: the memory is new and zero; the mitigations cost time and there is nobody to keep out
_XEN_WORDS = (
    f"dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus=1 bootscrub=0 spec-ctrl=no com1=115200,8n1 console=com1 "
    "loglvl=warning guest_loglvl=warning"
)
# clocksource: with any other one the watchdog fires when a saved state is loaded
_DOM0_WORDS = "console=hvc0 loglevel=4 clocksource=xen mitigations=off net.ifnames=0"
_CPU = {
    # smap: dom0 dies at its first page fault (QEMU's TCG and Xen disagree); rdtscp: a PVH guest spins on it; AVX: its
    # registers get mixed up between processes, so that one hash in some hundred is wrong and SSH breaks now and then;
    # xsave, which is nothing without AVX: an HVM guest's kernel warns of it
    "tcg": "max,-smap,-rdtscp,-xsave,-xsaveopt,-xsavec,-xgetbv1,-avx,-avx2,-fma,-f16c,-vaes",
    "kvm": "host",
}


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a host boots: the hypervisor, dom0's kernel and its initial RAM disk."""

    xen: Path
    dom0: Path
    initrd: Path


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a host. `name` is vda, vdb...: they are given in that order."""

    file: Path
    format: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on this machine's loopback that lead to a host."""

    ssh: int
    libvirt: int


def command(
    cell: Cell, host: str, found: Accelerator, kernels: Kernels, disks: Sequence[Disk], ports: Ports, state: Path | None
) -> list[str]:
    """The command line of a host's QEMU, which goes to the background once the machine is there, stopped.

    Args:
        state: A saved state to come up with instead of booting; of a machine with the same command line but for paths
            and ports.

    Raises:
        LabError: A path cannot be given to QEMU.
    """
    paths = (kernels.dom0, kernels.initrd)
    if any(character in str(path) for path in paths for character in ", "):
        raise LabError(
            f"the path {paths[0].parent} has a space or a comma, which QEMU cannot take",
            hint="set HVCONFORM_CACHE and HVCONFORM_STATE to folders without",
        )
    for path in (monitor(cell, host), cell.dir / "link"):
        if len(str(path)) > SOCKET_PATH_MAX:
            raise LabError(
                f"the path {path} is too long for a unix socket",
                hint="set HVCONFORM_STATE to a folder with a shorter name",
            )
    words = [EMULATOR, "-name", f"{cell.mark}-{host}", "-daemonize", "-S", "-nodefaults", "-display", "none"]
    # maxcpus: libxl gives no guest more vCPUs than the host could have CPUs
    words += ["-M", "q35", "-accel", found.name, "-cpu", _CPU[found.name], "-smp", "1,maxcpus=4", "-m", str(MEMORY_MIB)]
    # libvirt takes it as the host's, and migrates between hosts only if they have two
    words += ["-uuid", str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{host}.xen.hvconform.test"))]
    words += ["-kernel", str(kernels.xen), "-append", _XEN_WORDS]
    words += ["-initrd", f"{kernels.dom0} {_DOM0_WORDS} hvconform.host={host},{kernels.initrd}"]
    words += ["-serial", f"file:{_doubled(serial(cell, host))}"]
    words += ["-qmp", f"unix:{_doubled(monitor(cell, host))},server=on,wait=off"]
    for number, disk in enumerate(disks):
        options = "readonly=on" if disk.read_only else "cache=unsafe,discard=unmap"
        words += ["-drive", f"file={_doubled(disk.file)},format={disk.format},if=none,id=disk{number},{options}"]
        words += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    forward = f"hostfwd=tcp:127.0.0.1:{ports.ssh}-:{SSH_PORT},hostfwd=tcp:127.0.0.1:{ports.libvirt}-:{LIBVIRT_PORT}"
    words += ["-netdev", f"user,id=outside,restrict=on,ipv6=off,{forward}"]
    words += ["-device", "virtio-net-pci,netdev=outside,romfile="]
    end = "on" if host == FIRST else "off"
    words += ["-netdev", f"stream,id=link,server={end},addr.type=unix,addr.path={_doubled(cell.dir / 'link')}"]
    words += ["-device", f"virtio-net-pci,netdev=link,romfile=,mac={link_mac(host)}"]
    words += ["-device", "virtio-rng-pci"]
    if state is not None:
        words += ["-incoming", f"exec:cat {shlex.quote(str(state))}"]
    return words


def start(host: str, words: Sequence[str]) -> None:
    """Start a host's QEMU; raises `LabError` with what it said."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"QEMU of host {host} did not start: {done.stderr.strip()[-600:]}")


def free_ports() -> Ports:
    """Two ports that are free now; somebody else may still take them first."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return Ports(one.getsockname()[1], two.getsockname()[1])


def find(mark: str) -> Mapping[str, int]:
    """The living QEMUs of a cell: PID by host."""
    return dict(_processes(mark))


def _processes(mark: str) -> Iterator[tuple[str, int]]:
    """Every process of a cell's QEMUs, with its host. One that goes to the background is several for a moment."""
    for pid, words in processes.command_lines():
        at = words.index("-name") if "-name" in words[:-1] else -1
        if at > 0 and words[at + 1].startswith(f"{mark}-"):
            yield words[at + 1].removeprefix(f"{mark}-"), pid


def end(mark: str) -> list[str]:
    """End every QEMU of a cell; returns the hosts' names."""
    hosts = set()
    while found := list(_processes(mark)):
        processes.end(f"the hosts of {mark}", [pid for _, pid in found])
        hosts |= {host for host, _ in found}
    return sorted(hosts)


def monitor(cell: Cell, host: str) -> Path:
    return cell.host_dir(host) / "qmp"


def serial(cell: Cell, host: str) -> Path:
    """What Xen and dom0's kernel printed."""
    return cell.host_dir(host) / "serial.log"


class Monitor:
    """QEMU's monitor (QMP). Opened for a few commands and closed; raises `LabError` when QEMU refuses or is gone."""

    def __init__(self, cell: Cell, host: str) -> None:
        self._host = host
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        try:
            self._socket.connect(str(monitor(cell, host)))
            self._file = self._socket.makefile("rw", encoding="utf-8")
            self._read()
            self.command("qmp_capabilities")
        except (OSError, LabError) as error:
            self._socket.close()
            raise LabError(f"the machine of host {host} does not answer: {error}") from None

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def command(self, name: str, **arguments: Any) -> Any:
        self._file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            answer = self._read()
            if "error" in answer:
                raise LabError(f"QEMU of host {self._host} refused {name}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def _read(self) -> dict[str, Any]:
        line = ""
        try:
            line = self._file.readline()
        except OSError as error:
            raise LabError(f"the machine of host {self._host} does not answer: {error}") from None
        if not line:
            raise LabError(f"the machine of host {self._host} went away")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _doubled(path: Path) -> str:
    return str(path).replace(",", ",,")
