"""One look at a libvirt host: a single script, and what it shows, read from /proc and from libvirt's own files.

Nothing here asks libvirtd, so a look is fast and works while the daemon is dead or busy.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from conformance.observers.host import Entry, HostDomain, Inventory, Kind
from conformance.shells.shell import Shell
from labs.hosts import surroundings
from labs.hosts.surroundings import Surroundings, parse

CONFIG, STATE, RUN = "/etc/libvirt", "/var/lib/libvirt", "/run/libvirt"

FOLDERS = (
    f"{CONFIG}/qemu",  # definitions and autostart links
    f"{CONFIG}/nwfilter",
    f"{CONFIG}/secrets",
    f"{STATE}/images",
    f"{STATE}/qemu",  # snapshots, checkpoints, saved states, NVRAM, channel and monitor sockets
    f"{STATE}/swtpm",
    f"{RUN}/qemu",  # status files
    f"{RUN}/nwfilter-binding",
)
"""Where libvirt keeps what belongs to a VM. Its logs are not in it: they are kept on purpose after a VM has gone."""

_SCRIPT = r"""
for p in /proc/[0-9]*; do
    { read -r comm < "$p/comm"; } 2>/dev/null || continue
    case $comm in
    qemu-system*|qemu-kvm*|kvm)
        say process "${p#/proc/}" "$comm"; cat "$p/cmdline" 2>/dev/null
        for t in "$p"/task/[0-9]*; do
            { read -r name < "$t/comm" && read -r stat < "$t/stat"; } 2>/dev/null || continue
            case $name in CPU*|ALL*CPU*) say thread "${p#/proc/}"; echo "$stat";; esac
        done;;
    swtpm|dnsmasq|virtiofsd|passt*|slirp4netns|qemu-nbd|qemu-img) say helper "$comm"; cat "$p/cmdline" 2>/dev/null;;
    esac
done
for f in /run/libvirt/qemu/*.xml; do [ ! -e "$f" ] || { say live "$f"; cat "$f"; }; done
for f in /etc/libvirt/qemu/*.xml; do [ ! -e "$f" ] || { say defined "$f"; cat "$f"; }; done
"""

_NUMBERED = re.compile(r"(\bdomain-|/run/libvirt/qemu/\w+/)\d+-")
_BEING_WRITTEN = ".xml.new"
"""How libvirt calls a state or a definition until it is whole: it is there for a moment, whenever a VM changes."""

_OWNERS = r"qemu[^\"]*|swtpm|dnsmasq|kvm"


@dataclass(slots=True)
class Process:
    """A QEMU process."""

    pid: int
    argv: tuple[str, ...]
    vcpu_ticks: int = 0

    def option(self, name: str) -> str:
        """The value after an option; empty when it is not there."""
        at = next((at for at, word in enumerate(self.argv[:-1]) if word == name), None)
        return "" if at is None else self.argv[at + 1]

    @property
    def name(self) -> str:
        # -name guest=NAME,debug-threads=on: a comma within the name is doubled
        found = re.match(r"(?:guest=)?((?:[^,]|,,)*)", self.option("-name"))
        return found[1].replace(",,", ",") if found else ""

    @property
    def uuid(self) -> str:
        return self.option("-uuid").lower()


@dataclass(slots=True)
class Look:
    """What one look saw. XML trees are keyed by the domain's UUID."""

    host: str
    processes: list[Process] = field(default_factory=list)
    helpers: list[str] = field(default_factory=list)
    live: dict[str, ET.Element] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    defined: dict[str, ET.Element] = field(default_factory=dict)
    around: Surroundings = field(default_factory=Surroundings)

    def xml(self, uuid: str) -> ET.Element | None:
        """A domain's XML, the live one if there is one."""
        return self.live.get(uuid, self.defined.get(uuid))

    def process(self, uuid: str) -> Process | None:
        return next((process for process in self.processes if process.uuid == uuid), None)

    def domains(self) -> list[HostDomain]:
        """Every VM: with a process, a definition, or both."""
        uuids = dict.fromkeys([*(p.uuid for p in self.processes if p.uuid), *self.live, *self.defined])
        return [self._domain(uuid) for uuid in uuids]

    def _domain(self, uuid: str) -> HostDomain:
        process, xml = self.process(uuid), self.xml(uuid)
        name = (xml.findtext("name") if xml is not None else None) or (process.name if process else "")
        return HostDomain(
            uuid=uuid,
            name=name,
            host=self.host,
            running=process is not None,
            paused=process is not None and uuid in self.paused,
            pid=process.pid if process else 0,
            vcpu_seconds=process.vcpu_ticks / 100 if process else 0.0,  # USER_HZ is 100 on every Linux
            vcpus=_vcpus(xml),
            memory_mib=_memory_mib(xml),
            macs=tuple(_all(xml, "devices/interface/mac", "address")),
            disk_paths=tuple(_all(xml, "devices/disk/source", "file")),
        )

    def inventory(self, places: Sequence[str], bridges: Sequence[str]) -> Inventory:
        """As inventory entries.

        Args:
            places: The lab's storages; mounts elsewhere are not a VM's.
            bridges: The lab's bridges: what is plugged into them counts, whatever kind of interface it is.
        """
        taps = {name: f"tap {mac}" for name, kind, mac, _ in self.around.links if kind == "tap"}
        found = [(Kind.DOMAIN, f"{d.name} {d.uuid}", "running" if d.running else "defined") for d in self.domains()]
        found += [(Kind.PROCESS, f"qemu guest={p.name}", f"pid {p.pid}") for p in self.processes]
        found += [(Kind.PROCESS, helper, "") for helper in self.helpers]
        found += self.around.entries((*places, STATE, RUN), bridges, taps, _OWNERS, _masked)
        return frozenset(
            Entry(self.host, kind, name, detail)
            for kind, name, detail in found
            if not (kind is Kind.FILE and name.endswith(_BEING_WRITTEN))
        )


def look(shell: Shell, host: str, places: Sequence[str], *, everything: bool) -> Look:
    """Look at a host.

    Args:
        places: Folders whose files count, besides libvirt's own.
        everything: False leaves out files, links, rules, ports and mounts.
    """
    seen = Look(host)
    surroundings.look(
        shell, host, _SCRIPT, [*FOLDERS, *places], lambda words, body: _take(seen, words, body), everything=everything
    )
    return seen


def _masked(path: str) -> str:
    return _NUMBERED.sub(r"\1*-", path)


def _take(seen: Look, words: list[str], body: bytes) -> None:
    text = body.decode(errors="replace")
    match words:
        case ["process", pid, *_]:
            argv = text.strip("\n").rstrip("\0").split("\0")
            if argv != [""]:  # a process that is ending has none
                seen.processes.append(Process(int(pid), tuple(argv)))
        case ["thread", pid]:
            times = text.rsplit(")", 1)[1].split()
            for process in seen.processes:
                if process.pid == int(pid):
                    process.vcpu_ticks += int(times[11]) + int(times[12])
        case ["helper", comm]:
            seen.helpers.append(f"{comm} {_gist(text)}".strip())
        case ["live", *_]:
            root = parse(body)
            domain = None if root is None else root.find("domain")
            if root is not None and domain is not None:
                uuid = (domain.findtext("uuid") or "").lower()
                seen.live[uuid] = domain
                if root.get("state") == "paused":
                    seen.paused.add(uuid)
        case ["defined", *_]:
            root = parse(body)
            if root is not None:
                seen.defined[(root.findtext("uuid") or "").lower()] = root
        case _:
            seen.around.take(words, body)


def _gist(cmdline: str) -> str:
    """What tells one helper process from another: the paths that it works on."""
    words = cmdline.strip("\n\0").split("\0")[1:]
    return _masked(" ".join(word for word in words if "/" in word and "pid" not in word))[:200]


def _vcpus(xml: ET.Element | None) -> int:
    vcpu = None if xml is None else xml.find("vcpu")
    return 0 if vcpu is None else int(vcpu.get("current") or vcpu.text or 0)


def _memory_mib(xml: ET.Element | None) -> int:
    memory = None if xml is None else (xml.find("currentMemory") if xml.find("memory") is None else xml.find("memory"))
    return 0 if memory is None else int(memory.text or 0) // 1024  # libvirt writes KiB


def _all(xml: ET.Element | None, path: str, attribute: str) -> Iterator[str]:
    for element in [] if xml is None else xml.findall(path):
        if value := element.get(attribute):
            yield value.lower() if attribute == "address" else value
