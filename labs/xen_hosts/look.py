"""One look at a Xen host: a single script, and what it shows, asked of the hypervisor, xenstore and dom0's kernel.

Nothing here asks libvirtd, so a look works while the daemon is dead or busy, and sees the domains that `xl` made, which
libvirt does not list.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from conformance.errors import ProbeFailed
from conformance.observers.host import Entry, HostDomain, Inventory, Kind
from conformance.shells.shell import Shell
from labs.hosts import surroundings
from labs.hosts.surroundings import Surroundings, parse

FOLDERS = (
    "/etc/libvirt/libxl",  # definitions and autostart links
    "/etc/libvirt/nwfilter",
    "/etc/libvirt/secrets",
    "/etc/xen/auto",
    "/run/libvirt/libxl",  # status files
    "/run/libvirt/nwfilter-binding",
    "/run/xen",  # device models' sockets
    "/var/lib/libvirt/images",
    "/var/lib/libvirt/libxl",  # saved states, dumps, channels
    "/var/lib/xen",  # libxl's own record of every domain; saved states
)
"""Where libvirt and libxl keep what belongs to a VM. Logs are not in it: they are kept on purpose."""

_SCRIPT = r"""
backends() { say backends; xenstore-ls -f /local/domain/0/backend 2>/dev/null; }
say list; xl list -v 2>&1 || say failed
files='/etc/libvirt/libxl/*.xml'
if [ "$what" = all ]; then
    # an interface goes by its MAC; of several paths xenstore tells nothing behind one that is missing
    vifs=; macs=
    for v in /sys/bus/xen-backend/devices/vif-*-*; do
        [ -e "$v" ] || continue
        v=${v##*/vif-}; vifs="$vifs $v"; macs="$macs /local/domain/0/backend/vif/${v%-*}/${v#*-}/mac"
    done
    [ -z "$vifs" ] || { say macs $vifs; xenstore-read $macs 2>/dev/null || backends; }
    say store; xenstore-list -p /vm /libxl 2>/dev/null || { xenstore-list -p /vm; xenstore-list -p /libxl; } 2>/dev/null
    vms=
    for f in $(grep -lsxE 'xen-qemu-system.*|qemu-system.*|xl|libxl-save-help.*|qemu-nbd|qemu-img|pygrub|swtpm' \
        /proc/[0-9]*/comm); do
        vms=yes; files="$files ${f%/comm}/cmdline"
    done
    files="$files /sys/block/loop*/loop/backing_file"
else
    backends
    numbers=; sizes=
    for d in $(xenstore-list /local/domain 2>/dev/null); do
        [ "$d" = 0 ] || { numbers="$numbers $d"; sizes="$sizes /local/domain/$d/memory/static-max"; }
    done
    [ -z "$numbers" ] || { say sizes $numbers; xenstore-read $sizes 2>/dev/null; }
fi
"""

# the columns of `xl list -v`; a name may hold anything, the rest may not
_LINE = re.compile(
    r"^(?P<name>.*?) +(?P<id>\d+) +(?P<memory>\d+) +(?P<vcpus>\d+) +(?P<state>[rbpscd-]{6}) +(?P<seconds>[\d.]+)"
    r" +(?P<uuid>[0-9a-f-]{36}) "
)
_NODE = re.compile(r'^/local/domain/0/backend/(\w+)/(\d+)/(\d+)/(mac|params) = "(.*)"$')
# sockets and records with a domain's number in their names
_NUMBERED = re.compile(r"^(/run/xen/qmp-\w+-|/var/lib/xen/[a-z]+-[a-z]\.)(\d+)(?=$|\.)")
_OF_A_GUEST = re.compile(r"/vm/(?!0{8}(-0{4}){3}-)|/libxl/[1-9]\d*$")
_ITS_OWN = ("/run/xen/domid-history", "/run/xen/xenstored.pid")
"""What Xen keeps for itself there."""
_OWNERS = r"xen-qemu[^\"]*|qemu[^\"]*|swtpm"
_DISKS = ("qdisk", "vbd", "vbd3")


@dataclass(frozen=True, slots=True)
class Running:
    """A domain as the hypervisor shows it.

    `state` is `xl`'s six flags: running, blocked, paused, shut down, crashed, dying.
    """

    id: int
    name: str
    uuid: str
    memory_mib: int
    vcpus: int
    state: str
    seconds: float

    @property
    def alive(self) -> bool:
        """Whether it can still run: not shut down, not dying. One that was suspended to be moved is shut down."""
        return not set(self.state) & set("scd")


@dataclass(slots=True)
class Look:
    """What one look saw."""

    host: str
    running: list[Running] = field(default_factory=list)
    defined: dict[str, ET.Element] = field(default_factory=dict)
    macs: dict[int, dict[int, str]] = field(default_factory=dict)
    disks: dict[int, list[str]] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)
    processes: list[tuple[str, list[str]]] = field(default_factory=list)
    store: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    around: Surroundings = field(default_factory=Surroundings)

    def domain(self, uuid: str) -> Running | None:
        """The domain of a VM, one that can run before one that cannot."""
        found = [each for each in self.running if each.uuid == uuid]
        return min(found, key=lambda each: not each.alive, default=None)

    def domains(self) -> list[HostDomain]:
        """Every VM: with a domain, a definition, or both."""
        found = [self._domain(each) for each in self.running]
        known = {each.uuid for each in self.running}
        return found + [self._definition(uuid, xml) for uuid, xml in self.defined.items() if uuid not in known]

    def _domain(self, seen: Running) -> HostDomain:
        return HostDomain(
            uuid=seen.uuid,
            name=seen.name,
            host=self.host,
            running=seen.alive,
            paused="p" in seen.state,
            pid=seen.id,
            vcpu_seconds=seen.seconds,
            vcpus=seen.vcpus,
            memory_mib=self.memory.get(seen.id, seen.memory_mib),
            macs=tuple(self.macs.get(seen.id, {}).values()),
            disk_paths=tuple(self.disks.get(seen.id, ())),
        )

    def _definition(self, uuid: str, xml: ET.Element) -> HostDomain:
        vcpu = xml.find("vcpu")
        macs = [mac.get("address", "").lower() for mac in xml.findall("devices/interface/mac")]
        disks = [source.get("file", "") for source in xml.findall("devices/disk/source")]
        return HostDomain(
            uuid=uuid,
            name=xml.findtext("name") or "",
            host=self.host,
            running=False,
            vcpus=0 if vcpu is None else int(vcpu.get("current") or vcpu.text or 0),
            memory_mib=int(xml.findtext("memory") or 0) // 1024,  # libvirt writes KiB
            macs=tuple(macs),
            disk_paths=tuple(path for path in disks if path),
        )

    def inventory(self, places: Sequence[str], bridges: Sequence[str]) -> Inventory:
        """As inventory entries.

        Args:
            places: The lab's storages.
            bridges: The lab's bridges.
        """
        uuids = {each.id: each.uuid for each in self.running}

        def masked(path: str) -> str:
            return _NUMBERED.sub(lambda found: f"{found[1]}({uuids.get(int(found[2]), 'no domain')})", path)

        found = [(Kind.DOMAIN, f"{d.name} {d.uuid}", "running" if d.running else "not running") for d in self.domains()]
        found += [(Kind.PROCESS, _gist(words), f"pid {pid}") for pid, words in self.processes]
        found += [(Kind.FILE, f"xenstore {path}", "") for path in self._left_in_store(uuids)]
        found += [(Kind.MOUNT, f"loop device of {path}", "") for path in self.loops]
        roots = (*places, "/run/libvirt", "/run/xen", "/var/lib/libvirt", "/var/lib/xen")
        found += self.around.entries(roots, bridges, self._interfaces(), _OWNERS, masked)
        return frozenset(Entry(self.host, kind, name, detail) for kind, name, detail in found)

    def _interfaces(self) -> dict[str, str]:
        found = {}
        for name, kind, mac, _ in self.around.links:
            number = re.fullmatch(r"vif(\d+)\.(\d+)(-emu)?", name)
            if number:
                known = self.macs.get(int(number[1]), {}).get(int(number[2]))
                found[name] = f"vif{number[3] or ''} {known}" if known else name
            elif kind == "tap":
                found[name] = f"tap {mac}"
        return found

    def _left_in_store(self, uuids: dict[int, str]) -> Iterator[str]:
        """What the store still says of domains that are no more."""
        for path in self.store:
            key = path.rsplit("/", 1)[1]
            of_nobody = key not in uuids.values() if path.startswith("/vm/") else int(key) not in uuids
            if of_nobody:
                yield path


def look(shell: Shell, host: str, places: Sequence[str], *, everything: bool) -> Look:
    """Look at a host.

    Args:
        places: Folders whose files count, besides libvirt's and libxl's own.
        everything: For an inventory. False leaves out processes, files, links, rules, ports and mounts; True leaves out
            the domains' disks and memory.
    """
    seen = Look(host)
    surroundings.look(
        shell, host, _SCRIPT, [*FOLDERS, *places], lambda words, body: _take(seen, words, body), everything=everything
    )
    return seen


def _take(seen: Look, words: list[str], body: bytes) -> None:
    text = body.decode(errors="replace")
    match words:
        case ["list"]:
            seen.running = list(_listed(text))
            if not seen.running and " 0 " not in text:
                raise ProbeFailed(f"xl on host {seen.host} lists no domain, not even its own: {text.strip()[-200:]}")
        case ["failed"]:
            raise ProbeFailed(f"xl on host {seen.host} does not list its domains", hint="is Xen running there?")
        case ["backends"]:
            for line in text.splitlines():
                found = _NODE.match(line)
                if found:
                    _backend(seen, found[1], int(found[2]), int(found[3]), found[4], found[5])
        case ["macs", *vifs]:
            for vif, mac in zip(vifs, text.splitlines(), strict=False):
                domain, device = vif.split("-")
                _backend(seen, "vif", int(domain), int(device), "mac", mac)
        case ["sizes", *numbers]:
            # of a domain that has just gone there is none, nor of those behind it
            for number, size in zip(numbers, text.splitlines(), strict=False):
                if size.isdigit():
                    seen.memory[int(number)] = int(size) // 1024  # KiB
        case ["store"]:
            seen.store = [path for path in text.split() if _OF_A_GUEST.match(path)]
        case ["file", path] if path.startswith("/etc/libvirt/"):
            root = parse(body)
            if root is not None:
                seen.defined[(root.findtext("uuid") or "").lower()] = root
        case ["file", path] if path.startswith("/sys/block/"):
            seen.loops.append(text.strip("\n"))
        case ["file", path] if path.endswith("/cmdline"):
            words = text.strip("\n").rstrip("\0").split("\0")
            seen.processes.append((path.split("/")[2], words))
        case _:
            seen.around.take(words, body)
            seen.around.files = [item for item in seen.around.files if item[2] not in _ITS_OWN]


def _listed(text: str) -> Iterator[Running]:
    for line in text.splitlines():
        found = _LINE.match(line)
        if found and found["id"] != "0":
            yield Running(
                id=int(found["id"]),
                name=found["name"],
                uuid=found["uuid"],
                memory_mib=int(found["memory"]),
                vcpus=int(found["vcpus"]),
                state=found["state"],
                seconds=float(found["seconds"]),
            )


def _backend(seen: Look, kind: str, domain: int, number: int, key: str, value: str) -> None:
    if kind == "vif" and key == "mac":
        seen.macs.setdefault(domain, {})[number] = value.lower()
    elif kind in _DISKS and key == "params":
        # aio:/path, qcow2:/path, or the path alone
        at = value.find("/")
        if at >= 0:
            seen.disks.setdefault(domain, []).append(value[at:])


def _gist(words: Sequence[str]) -> str:
    """What tells one process from another, without its numbers."""
    if "-name" in words[:-1]:
        return f"qemu guest={words[words.index('-name') + 1]}"
    named = words[0].rsplit("/", 1)[-1]
    return f"{named} {' '.join(word for word in words[1:] if '/' in word)}"[:200].strip()
