"""The saved state of a pair of hosts that are up: made once, then every later start takes about a second.

It holds both hosts at one moment, with networks, storage and DHCP; a lab's hosts are clones of it, with disks of their
own over its disks. It belongs to one build of everything in it, one QEMU and one command line.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from conformance.errors import HostDown, LabError
from conformance.guest.packages import run
from conformance.lab import inventory
from conformance.lab.inventory import Image
from conformance.lab.lab import Say
from conformance.shells.shell import Shell, open_shell
from conformance.waiting import WaitTimeout, now, until
from labs.nested import images as guest_images
from labs.nested import storage as file_systems
from labs.nested.accel import Accelerator
from labs.xen import dom0, hypervisor, keys, machine, networks, storage
from labs.xen.debian import cached, digest
from labs.xen.layout import HOSTS, IMAGES, Cell

_BOOT_S = 180.0
_LOAD_S = 60.0
_REACH_S = 60.0
_PORTS_TRIED = 5


@dataclass(frozen=True)
class Parts:
    """All that a pair of hosts is made of.

    Args:
        images: The guest images, with their paths on the hosts.
        disks: Files below every host's disks, by the disks' names.
    """

    dom0: dom0.Dom0
    hypervisor: hypervisor.Hypervisor
    images: Sequence[Image]
    disks: Mapping[str, Path]
    accelerator: Accelerator

    @property
    def id(self) -> str:
        """Names what comes of these parts."""
        here = Path(__file__).parent
        code = [here / f"{name}.py" for name in ("keys", "layout", "machine", "networks", "saved", "storage")]
        processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if self.accelerator.name == "kvm" else ""
        model = "".join(line for line in processor.splitlines() if line.startswith(("model", "flags", "stepping")))
        paths = [str(path) for path in (self.dom0.root, self.hypervisor.file, *self.disks.values())]
        return digest([self.dom0.id, *paths, self.accelerator.name, self.accelerator.version, model, *code])


def parts(cache_dir: Path, found: Callable[[Path | None], Accelerator], say: Say) -> Parts:
    """Build what is not in the cache.

    Args:
        cache_dir: Of the whole harness.
        found: Says whether KVM works here, given a kernel to try.
        say: Told what takes time.
    """
    cache = cache_dir / "xen"
    # side by side: one mostly waits for the network and the disk, the other compiles
    with ThreadPoolExecutor(2) as pool:
        xen = pool.submit(hypervisor.build, cache, say)
        system = pool.submit(dom0.build, cache, say)
    catalogue, image_disk = _images(cache, cache_dir, say)
    empty = cached(cache / "empty" / digest([Path(file_systems.__file__)]), _empty)
    files = {"root": system.result().root, "images": image_disk, "local": empty / "disk", "shared": empty / "disk"}
    kernel = next((image.kernel for image in catalogue if image.kernel is not None), None)
    accelerator = found(None if kernel is None else image_disk.with_name("images") / kernel.name)
    return Parts(system.result(), xen.result(), catalogue, files, accelerator)


def _empty(out: Path, _: Path) -> None:
    file_systems.format(out / "disk")


def _images(cache: Path, cache_dir: Path, say: Say) -> tuple[list[Image], Path]:
    """The guest images as the hosts see them, and a file system with them."""
    from conformance.guest import image

    key = digest([image.build(cache_dir, say).image_id, Path(guest_images.__file__), str(IMAGES)])

    def make(out: Path, _: Path) -> None:
        made = guest_images.prepare(out / "images", cache_dir, say, IMAGES)
        (out / "images.json").write_text(json.dumps([image.model_dump(mode="json") for image in made]))
        size = sum(path.stat().st_size for path in (out / "images").iterdir())
        with (out / "disk").open("wb") as disk:
            disk.truncate(2 * size + (64 << 20))
        run("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", out / "images", out / "disk")

    folder = cached(cache / "images" / key, make)
    listed = json.loads((folder / "images.json").read_text())
    return [Image.model_validate(item) for item in listed], folder / "disk"


@dataclass(frozen=True)
class Saved:
    """A saved state on disk."""

    folder: Path

    @property
    def key(self) -> Path:
        """The SSH key that opens the hosts."""
        return self.folder / "key"

    @property
    def host_key(self) -> str:
        """The hosts' public key line."""
        return (self.folder / "host_key.pub").read_text().strip()

    def shell(self, ports: machine.Ports) -> inventory.SshShell:
        """How a host is reached from this machine."""
        return inventory.SshShell(
            address="127.0.0.1", port=ports.ssh, user="root", key_file=self.key, host_key=self.host_key
        )


def prepare(cell: Cell, cache: Path, made: Parts, say: Say) -> Saved:
    """The saved state of these parts; where there is none the hosts are booted in the cell's folder, and saved.

    Raises:
        LabError: A host does not come up.
    """
    folder = cache / "saved" / made.id
    if (folder / "complete").exists():
        return Saved(folder)
    say(f"{cell.name}: booting the hosts once, to save their state ({made.accelerator.name.upper()})")
    fresh = Saved(cell.dir / "saving")
    fresh.folder.mkdir()
    client, own = keys.make(), keys.make()
    keys.write(client, fresh.key)
    keys.write(own, fresh.folder / "host_key")
    made.dom0.initrd(fresh.folder / "initrd", keys.over(own, client))
    _boot(cell, fresh, made, say)
    for host in HOSTS:
        with machine.Monitor(cell, host) as monitor:
            monitor.command("quit")
    machine.end(cell.mark)
    (fresh.folder / "complete").touch()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _move(fresh.folder, folder)
    return Saved(folder)


def _move(source: Path, target: Path) -> None:
    """Move a folder, perhaps to another file system; whoever was faster has made the same."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.move(source, beside)
    try:
        beside.rename(target)
    except OSError:
        shutil.rmtree(beside)
        if not (target / "complete").exists():
            raise


def _boot(cell: Cell, fresh: Saved, made: Parts, say: Say) -> None:
    start = now()
    disks = {}
    for host in HOSTS:
        (fresh.folder / host).mkdir()
        below = {name: (made.disks[name], "raw") for name in storage.disks(host)}
        disks[host] = _overlays(fresh.folder / host, below)
    ports = _start(cell, fresh, made, disks, saved=False)
    for host in HOSTS:
        with machine.Monitor(cell, host) as monitor:
            monitor.command("cont")
    for host in HOSTS:
        _booted(cell, host)
    say(f"{cell.name}: both hosts are booted at {now() - start:.0f} s")
    shells = {host: open_shell(fresh.shell(ports[host])) for host in HOSTS}
    try:
        for host, shell in shells.items():
            reached(host, shell)
            networks.build(host, shell)
            storage.mount(host, shell)
        for host, shell in shells.items():
            libvirt_answers(host, shell)
            shell.script("sync; echo 3 > /proc/sys/vm/drop_caches")
    finally:
        for shell in shells.values():
            shell.close()
    say(f"{cell.name}: networks, storage and libvirt at {now() - start:.0f} s")
    for host in HOSTS:
        with machine.Monitor(cell, host) as monitor:
            monitor.command("stop")
    for host in HOSTS:
        _save(cell, host, fresh.folder / host / "state")
    say(f"{cell.name}: saved at {now() - start:.0f} s")


def reached(host: str, shell: Shell) -> None:
    """Wait until a host takes commands: a busy machine may take long over a handshake; raises `WaitTimeout`."""
    until(
        f"host {host} to take commands",
        lambda: shell.run(["true"], check=False).status == 0,
        seconds=_REACH_S,
        ignore=(HostDown,),
    )


def libvirt_answers(host: str, shell: Shell) -> None:
    """Wait until a host's libvirtd answers; raises `WaitTimeout`."""
    until(
        f"libvirtd of host {host} to answer",
        lambda: shell.run(["virsh", "-c", "xen:///system", "uri"], check=False).status == 0,
        seconds=_BOOT_S,
    )


def _overlays(folder: Path, below: Mapping[str, tuple[Path, str]]) -> list[machine.Disk]:
    """A host's disks, each over a file (and its format) that is never written to."""
    disks = []
    for name, (file, format) in below.items():
        target = folder / f"{name}.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", file, "-F", format, target)
        disks.append(machine.Disk(target, "qcow2"))
    return disks


def _start(
    cell: Cell, kept: Saved, made: Parts, disks: Mapping[str, Sequence[machine.Disk]], *, saved: bool
) -> dict[str, machine.Ports]:
    kernels = machine.Kernels(made.hypervisor.file, made.dom0.kernel, kept.folder / "initrd")
    ports = {}
    for host in HOSTS:
        cell.host_dir(host).mkdir(exist_ok=True)
        state = kept.folder / host / "state" if saved else None
        for left in reversed(range(_PORTS_TRIED)):
            ports[host] = machine.free_ports()
            words = machine.command(cell, host, made.accelerator, kernels, disks[host], ports[host], state)
            try:
                machine.start(host, words)
                break
            except LabError as error:
                if not left or "host forwarding" not in error.message:  # else somebody took the port meanwhile
                    raise
    return ports


def _booted(cell: Cell, host: str) -> None:
    """Wait until a host has started everything, by its serial port; raises `LabError` with its last words."""
    log = machine.serial(cell, host)

    def said() -> str:
        return log.read_text(errors="replace") if log.exists() else ""

    def never(text: str) -> str | None:
        if host not in machine.find(cell.mark):
            return "its QEMU ended"
        return next((word for word in ("HVCONFORM-FAILED", "Panic on CPU", "Kernel panic") if word in text), None)

    try:
        until(
            f"host {host} to boot", said, lambda text: "HVCONFORM-LIBVIRT" in text, seconds=_BOOT_S, interval=0.2,
            never=never,
        )  # fmt: skip
    except WaitTimeout as error:
        last = "\n  ".join(said().splitlines()[-12:])
        reason = never(said()) or f"nothing more within {error.seconds:.0f} s"
        raise HostDown(
            f"host {host} did not come up: {reason}; its last words:\n  {last}", hint="hvconform lab rebuild xen"
        ) from None


def _save(cell: Cell, host: str, file: Path) -> None:
    with machine.Monitor(cell, host) as monitor:
        monitor.command("migrate-set-parameters", **{"max-bandwidth": 10**11})
        file.touch(mode=0o600)
        monitor.command("migrate", uri=f"exec:cat > {file}")
        told = until(
            f"the state of host {host} to be saved",
            lambda: monitor.command("query-migrate"),
            lambda told: told.get("status") in ("completed", "failed"),
            seconds=_LOAD_S,
        )
    if told["status"] == "failed":
        raise LabError(f"the state of host {host} cannot be saved: {told.get('error-desc', 'no reason given')}")


def clone(cell: Cell, kept: Saved, made: Parts) -> dict[str, machine.Ports]:
    """Start a cell's hosts from the saved state; they run when this returns.

    Raises:
        LabError: A host does not come up.
    """
    disks = {}
    for host in HOSTS:
        cell.host_dir(host).mkdir(exist_ok=True)
        below = {name: (kept.folder / host / f"{name}.qcow2", "qcow2") for name in storage.disks(host)}
        disks[host] = _overlays(cell.host_dir(host), below)
    ports = _start(cell, kept, made, disks, saved=True)
    for host in HOSTS:
        _loaded(cell, host)
    for host in HOSTS:
        with machine.Monitor(cell, host) as monitor:
            monitor.command("cont")
    return ports


def _loaded(cell: Cell, host: str) -> None:
    with machine.Monitor(cell, host) as monitor:
        told = until(
            f"the saved state of host {host} to be loaded",
            lambda: monitor.command("query-status")["status"],
            lambda status: status in ("paused", "postmigrate", "internal-error"),
            seconds=_LOAD_S,
            interval=0.02,
        )
    if told == "internal-error":
        raise LabError(f"the saved state of host {host} cannot be loaded", hint="hvconform lab rebuild xen")
