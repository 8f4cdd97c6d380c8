"""How long the test guest takes from power-on to its agent's answer, against an init that answers at once.

    python bench/guest_boot.py [--rounds N]

The floor is the same QEMU with the same devices, kernel and command line, and an initrd with nothing but an init that
writes one line. Both answers are awaited on the serial console. Rounds are interleaved, and the medians compared.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from conformance.guest import GuestImages, build
from conformance.guest.cpio import Archive
from conformance.paths import cache_dir

FLOOR = """
#include <fcntl.h>
#include <unistd.h>
int main(void) { if (write(1, "\\nANSWER\\n", 8) < 0) return 1; for (;;) pause(); }
"""
DEADLINE_S = 60.0


def floor_initrd(folder: Path) -> Path:
    """An initrd whose init writes one line at once."""
    source, program, initrd = folder / "floor.c", folder / "floor", folder / "floor.cpio"
    source.write_text(FLOOR)
    subprocess.run(["gcc", "-Os", "-static", "-s", "-o", program, source], check=True)
    archive = Archive()
    archive.folder("dev")
    archive.device("dev/console", 5, 1)
    archive.file("init", program.read_bytes(), 0o755)
    initrd.write_bytes(archive.build())
    return initrd


def qemu(folder: Path, images: GuestImages, initrd: Path) -> list[str]:
    return [
        "qemu-system-x86_64", "-M", "q35,accel=tcg", "-m", "128", "-nodefaults", "-display", "none", "-snapshot",
        "-kernel", str(images.kernel), "-initrd", str(initrd), "-append", images.cmdline,
        "-drive", f"if=none,id=root,format=raw,file={images.disk('bios', 'raw')}",
        "-device", "virtio-blk-pci,drive=root,serial=root",
        "-netdev", "user,id=net",
        "-device", "virtio-net-pci,netdev=net",
        "-chardev", f"socket,id=serial,path={folder}/serial,server=on,wait=off", "-serial", "chardev:serial",
    ]  # fmt: skip


def connect(path: Path, end: float) -> socket.socket:
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
            return client
        except OSError:
            client.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.002)


def seconds_to_answer(folder: Path, images: GuestImages, initrd: Path, *, ask: bool) -> float:
    """Wall time from QEMU's start to the line on the console; the agent is asked every 10 ms until it answers."""
    serial = folder / "serial"
    serial.unlink(missing_ok=True)
    began = time.monotonic()
    process = subprocess.Popen(qemu(folder, images, initrd))
    try:
        client = connect(serial, began + DEADLINE_S)
        client.settimeout(0.01)
        seen = b""
        while time.monotonic() < began + DEADLINE_S:
            try:
                seen += client.recv(4096)
            except TimeoutError:
                if ask:
                    with suppress(TimeoutError):  # the serial port is full until something in the guest reads it
                        client.sendall(b"\n\x02HVC 1 boot\n")
            if b"ANSWER" in seen or b'"boots":' in seen:
                return time.monotonic() - began
        raise SystemExit(f"no answer within {DEADLINE_S} s; the console said: {seen[-400:]!r}")
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    images = build(cache_dir(), print)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bare = floor_initrd(folder)
        floor, agent = [], []
        for _ in range(rounds):
            floor.append(seconds_to_answer(folder, images, bare, ask=False))
            agent.append(seconds_to_answer(folder, images, images.initrd, ask=True))
    low, high = statistics.median(floor), statistics.median(agent)
    print(f"init that answers at once  median {low:.2f} s  (best {min(floor):.2f} s, {rounds} rounds)")
    print(f"agent's first answer       median {high:.2f} s  (best {min(agent):.2f} s)")
    print(f"ratio                      {high / low:.2f}     (target at most 1.15)")


if __name__ == "__main__":
    main()
