"""One test guest under plain QEMU, with every way to reach its agent; no libvirt, no root."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conformance.errors import GuestSilent, NotObserved
from conformance.guest import GuestImages
from conformance.guest.boot import compress
from conformance.guest.cpio import Archive
from conformance.observers.guest import Boot, Guest
from conformance.waiting import until

UUID = "48564300-1111-4222-8333-444455556666"
OVMF = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
MAC = "52:54:00:00:00:01"
WIRE_MAC = "52:54:00:00:00:02"


class Line:
    """A stream socket read line by line."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.stream.settimeout(5)
        self.stream.sendall(data)

    def next(self, timeout_s: float) -> bytes:
        """The next line, without its end; raises `GuestSilent`."""
        while b"\n" not in self._rest:
            self.stream.settimeout(timeout_s)
            try:
                got = self.stream.recv(65536)
            except OSError as error:
                raise GuestSilent(f"{error}") from None
            if not got:
                raise GuestSilent("the connection was closed")
            self._rest += got
        line, self._rest = self._rest.split(b"\n", 1)
        return line.rstrip(b"\r")


class Vm:
    """A running guest. Use `running`."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.events: list[str] = []
        self._qmp = self._connect("qmp")
        self.serial = self._connect("serial")
        self.console = b""
        self.guest = Guest(self, boot_s=30)

    def _connect(self, name: str) -> Line:
        path = str(self.folder / name)

        def connect() -> socket.socket:
            assert self.process.poll() is None, (self.folder / "stderr").read_text()
            stream = socket.socket(socket.AF_UNIX)
            try:
                stream.connect(path)
            except OSError:
                stream.close()
                raise
            return stream

        return Line(until(f"QEMU's {name} socket", connect, seconds=10, interval=0.01, ignore=(OSError,)))

    def greet(self) -> None:
        """Enter QMP's command mode; fails with QEMU's own words if it would not start."""
        try:
            self._qmp.next(5)
            self.qmp("qmp_capabilities")
        except GuestSilent:
            raise AssertionError((self.folder / "stderr").read_text()) from None

    def close(self) -> None:
        self._qmp.stream.close()
        self.serial.stream.close()

    # QEMU

    def qmp(self, command: str, **arguments: Any) -> Any:
        self._qmp.send(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            reply = json.loads(self._qmp.next(10))
            if "event" in reply:
                self.events.append(reply["event"])
                continue
            assert "error" not in reply, reply
            return reply["return"]

    def saw(self, event: str) -> bool:
        """Whether QEMU has told of an event."""
        self.qmp("query-status")
        return event in self.events

    def port(self, inner: int) -> int:
        """Where the guest's TCP port is on the loopback here."""
        table = self.qmp("human-monitor-command", **{"command-line": "info usernet"})
        rows = [row.split() for row in table.splitlines() if "HOST_FORWARD" in row]
        # TCP[HOST_FORWARD]  fd  127.0.0.1  port  guest address  guest port  receive queue  send queue
        return next(int(row[3]) for row in rows if row[5] == str(inner))

    def wait_exit(self) -> int:
        """Wait until QEMU has ended by itself."""
        return self.process.wait(timeout=20)

    # the agent's channels

    def ask(self, line: str, timeout_s: float) -> str:
        """One request over TCP, on a connection of its own."""
        with self.connection(timeout_s) as connection:
            connection.send(line.encode() + b"\n")
            return connection.next(timeout_s).decode()

    @contextmanager
    def connection(self, timeout_s: float = 5, port: int = 7777) -> Iterator[Line]:
        try:
            stream = socket.create_connection(("127.0.0.1", self.port(port)), timeout_s)
        except OSError as error:
            raise GuestSilent(str(error)) from None
        with stream:
            yield Line(stream)

    def ask_serial(self, request: str, timeout_s: float = 10, *, id: str = "7") -> dict[str, Any]:
        """One request over the serial console; what else the console says is kept in `console`."""
        self.serial.send(f"\x02HVC {id} {request}\n".encode())
        mark = f"\x02HVC {id} ".encode()
        while True:
            line = self.serial.next(timeout_s)
            if mark in line:
                reply = json.loads(line.split(mark, 1)[1])
                assert isinstance(reply, dict)
                return reply
            self.console += line + b"\n"

    def wait_up(self, before: Boot | None = None) -> Boot:
        """Wait until a boot (other than `before`) answers on the serial console and then on the network.

        The console first: a connection through QEMU's user network to a guest that is not up hangs until it times out.
        """

        def boot() -> Boot:
            return Boot(**self.ask_serial("boot", 0.1, id=os.urandom(4).hex())["data"])

        def has_lease() -> bool:
            return "10.0.2.15/24" in str(self.ask_serial("nics", 2))

        not_yet = (GuestSilent, json.JSONDecodeError)  # the kernel's own words may come between the agent's
        try:
            found = until(
                "the agent on the serial console",
                boot,
                lambda found: before is None or found.boot_id != before.boot_id,
                seconds=40,
                ignore=not_yet,
            )
            until("the guest's lease", has_lease, seconds=10, ignore=not_yet)
        except NotObserved as error:
            raise AssertionError(f"{error}; the console said {self.drain_console()[-1000:]!r}") from None
        assert self.guest.boot().boot_id == found.boot_id
        return found

    def drain_console(self, seconds: float = 0) -> bytes:
        while select.select([self.serial.stream], [], [], seconds)[0]:
            got = self.serial.stream.recv(65536)
            if not got:
                break
            self.console += got
        return self.console


def overlay(images: GuestImages, folder: Path, firmware: str = "bios") -> Path:
    """A throw-away root disk over the image."""
    path = folder / f"root-{firmware}.qcow2"
    base = images.disk(firmware, "raw")  # type: ignore[arg-type]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path], check=True)
    return path


def with_behind(images: GuestImages, archive: Archive, folder: Path) -> GuestImages:
    """The same image with an archive behind its initrd, whose files come on top; for a direct boot."""
    for path in images.folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "initrd").unlink()
    (folder / "initrd").write_bytes(compress(images.initrd.read_bytes()) + archive.build())
    return GuestImages(folder, images.image_id)


@contextmanager
def running(
    images: GuestImages, folder: Path, root: Path | None, *, boot: str = "direct", extra: Sequence[str] = ()
) -> Iterator[Vm]:
    """Boot a guest; it is killed at the end. `boot` is direct, bios or uefi."""
    run = folder / f"vm-{os.urandom(4).hex()}"
    run.mkdir()
    command = [
        "qemu-system-x86_64", "-M", "pc,accel=tcg", "-uuid", UUID, "-nodefaults", "-display", "none",
        "-m", f"{256 if boot == 'uefi' else 128},slots=2,maxmem=1G", "-smp", "1,maxcpus=2",
        "-chardev", f"socket,id=serial,path={run}/serial,server=on,wait=off", "-serial", "chardev:serial",
        "-qmp", f"unix:{run}/qmp,server=on,wait=off",
        "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:7777,hostfwd=tcp:127.0.0.1:0-:7779",
        "-device", f"virtio-net-pci,netdev=net,mac={MAC},romfile=",
    ]  # fmt: skip
    if root:
        command += ["-drive", f"if=none,id=root,format=qcow2,file={root},cache=writeback"]
        command += ["-device", "virtio-blk-pci,drive=root,serial=root"]
    if boot == "direct":
        command += ["-kernel", str(images.kernel), "-initrd", str(images.initrd), "-append", images.cmdline]
    if boot == "uefi":
        variables = run / "vars.fd"
        variables.write_bytes(OVMF_VARS.read_bytes())
        command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF}"]
        command += ["-drive", f"if=pflash,format=raw,unit=1,file={variables}"]
    with (run / "stderr").open("wb") as stderr:
        process = subprocess.Popen([*command, *extra], stderr=stderr)
    vm = None
    try:
        vm = Vm(run, process)
        vm.greet()
        yield vm
    finally:
        if vm is not None:
            vm.close()
        process.kill()
        process.wait()
