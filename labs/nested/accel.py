"""Whether KVM works on this machine: proved by a kernel that came up, never by a look at /dev/kvm."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conformance.waiting import Deadline

EMULATOR = "qemu-system-x86_64"
_SECONDS = 30.0
_SILENCE_S = 5.0

# Without a root file system a kernel that has come all the way panics, which ends QEMU (-no-reboot). It talks all the
# time, so a hang is seen early.
_CMDLINE = "console=ttyS0 earlyprintk=ttyS0 ignore_loglevel panic=-1 root=none"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs the vCPUs here: `name` is kvm or tcg, `reason` says why it is not kvm."""

    name: str
    version: str
    reason: str = ""

    @property
    def note(self) -> str:
        """For a lab's evidence note."""
        return f"QEMU {self.version}, {self.name.upper()}"


def probe(cache_dir: Path, kernel: Path | None) -> Accelerator:
    """Find out, once a boot of this machine and version of QEMU.

    Args:
        cache_dir: Where the answer is kept.
        kernel: The test guest's kernel; without one KVM is not believed.
    """
    version = emulator_version()
    if kernel is None:
        return Accelerator("tcg", version, "there is no kernel to try KVM with")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    cache = cache_dir / "kvm-probe.json"
    key = {"boot": boot, "version": version}
    with suppress(OSError, ValueError, KeyError):  # nothing kept, or nothing that can be used: find out again
        kept = json.loads(cache.read_text())
        if kept["key"] == key:
            return Accelerator(kept["name"], version, kept["reason"])
    reason = why_not(kernel)
    found = Accelerator("tcg" if reason else "kvm", version, reason)
    cache_dir.mkdir(parents=True, exist_ok=True)
    fresh = cache.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({"key": key, "name": found.name, "reason": found.reason}))
    fresh.rename(cache)
    return found


def why_not(kernel: Path, *, device: Path = Path("/dev/kvm"), accelerator: str = "kvm") -> str:
    """Why a guest does not run with KVM; empty when one did.

    The guest runs in a child with a time limit: where nested virtualization is half there, firmware and boot sector
    run, and the kernel hangs at the first thing that the outer hypervisor does not do.
    """
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} is not there or may not be used"
    command = [EMULATOR, "-accel", accelerator, "-m", "128", "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-serial", "stdio", "-kernel", str(kernel), "-append", _CMDLINE]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        said = _listen(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if b"Kernel panic - not syncing: VFS" in said:
        return ""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip() and "warning:" not in line]
    return f"a guest's kernel did not come up; its last words: {lines[-1].strip()[:200] if lines else 'none'}"


def _listen(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    said = b""
    deadline = Deadline.after(_SECONDS)
    while deadline.left and select.select([process.stdout], [], [], min(_SILENCE_S, deadline.left))[0]:
        chunk = os.read(process.stdout.fileno(), 65536)
        if not chunk:
            break
        said += chunk
    return said


def emulator_version() -> str:
    """QEMU's version, such as 7.2.22."""
    text = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\S+)", text)
    return found[1] if found else "unknown"
