"""One look at a libvirt host: a single script, and what it shows, read from /proc and from libvirt's own files.

Nothing here asks libvirtd, so a look is fast and works while the daemon is dead or busy. Names in the inventory stay
the same while nothing happens and when a daemon restarts: no PIDs, no domain numbers, no numbered taps.
"""

from __future__ import annotations

import re
import secrets
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from conformance.errors import ProbeFailed
from conformance.observers.host import Entry, HostDomain, Inventory, Kind
from conformance.observers.shell import Shell

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

# $1 token of this look's section lines; $2 "all" or "domains"; then the folders. Only builtins in the loops over /proc.
_SCRIPT = r"""
token=$1; what=$2; shift 2
say() { printf '\n%s %s\n' "$token" "$*"; }
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
[ "$what" = all ] || { say end; exit 0; }
say files
find "$@" -mindepth 1 \( -type d ! -name 'domain-*' -o -name lost+found -o -printf '%y %s %p\0' \) 2>/dev/null
for n in /sys/class/net/*; do
    read -r mac < "$n/address"
    kind=other
    if [ -e "$n/tun_flags" ]; then kind=tap; elif [ -d "$n/bridge" ]; then kind=bridge; fi
    case ${n##*/} in macvtap*) kind=tap;; esac
    master=; [ ! -e "$n/master" ] || master=$(readlink "$n/master")
    say link "${n##*/}" "$kind" "$mac" "${master##*/}"
done
say rules; nft -s list ruleset 2>/dev/null
say ports; ss -lntupH 2>/dev/null
say mounts; cat /proc/self/mounts
say end
"""

_NUMBERED = re.compile(r"\bdomain-\d+-")
_PERSISTENT_PORTS = re.compile(r'users:\(\("(qemu[^"]*|swtpm|dnsmasq|kvm)"')


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
    files: list[tuple[str, str, str]] = field(default_factory=list)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)
    rules: str = ""
    ports: str = ""
    mounts: str = ""

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
        taps = {name: mac for name, kind, mac, _ in self.links if kind == "tap"}
        found = [(Kind.DOMAIN, f"{d.name} {d.uuid}", "running" if d.running else "defined") for d in self.domains()]
        found += [(Kind.PROCESS, f"qemu guest={p.name}", f"pid {p.pid}") for p in self.processes]
        found += [(Kind.PROCESS, helper, "") for helper in self.helpers]
        found += [
            (Kind.FILE, _stable(_NUMBERED.sub("domain-*-", path), taps), f"{size} bytes")
            for _, size, path in self.files
        ]
        for name, kind, mac, master in self.links:
            if kind == "tap":
                found.append((Kind.INTERFACE, f"tap {mac}", f"{name} in {master}"))
            elif kind == "bridge" or master in bridges:
                found.append((Kind.INTERFACE, name, f"in {master}" if master else kind))
        found += [(Kind.RULE, _stable(rule, taps), "") for rule in _rules(self.rules)]
        found += [(Kind.PORT, port, "") for port in _ports(self.ports)]
        roots = (*places, STATE, RUN)
        for line in self.mounts.splitlines():
            device, place, kind = line.split()[:3]
            if any(place == root or place.startswith(f"{root}/") for root in roots):
                found.append((Kind.MOUNT, place, f"{kind} {device}"))
        return frozenset(Entry(self.host, kind, name, detail) for kind, name, detail in found)


def look(shell: Shell, host: str, places: Sequence[str], *, everything: bool) -> Look:
    """Look at a host.

    Args:
        places: Folders whose files count, besides libvirt's own.
        everything: False leaves out files, links, rules, ports and mounts.
    """
    token = f"@{secrets.token_hex(8)}"  # guests and strangers choose names and metadata: none can guess a section line
    done = shell.script(_SCRIPT, token, "all" if everything else "domains", *FOLDERS, *places)
    seen = Look(host)
    last = ""
    for words, body in _sections(done.stdout, token):
        last = words[0]
        _take(seen, words, body)
    if last != "end":
        raise ProbeFailed(f"the look at host {host} broke off after {last or 'nothing'!r}")
    return seen


def _sections(output: bytes, token: str) -> Iterator[tuple[list[str], bytes]]:
    for part in output.split(f"\n{token} ".encode())[1:]:
        head, _, body = part.partition(b"\n")
        yield head.decode(errors="replace").split(" "), body


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
            root = _parse(body)
            domain = None if root is None else root.find("domain")
            if root is not None and domain is not None:
                uuid = (domain.findtext("uuid") or "").lower()
                seen.live[uuid] = domain
                if root.get("state") == "paused":
                    seen.paused.add(uuid)
        case ["defined", *_]:
            root = _parse(body)
            if root is not None:
                seen.defined[(root.findtext("uuid") or "").lower()] = root
        case ["files"]:
            for item in text.strip("\n").split("\0"):
                if item:
                    kind, size, path = item.split(" ", 2)
                    seen.files.append((kind, size, path))
        case ["link", name, kind, mac, *master]:
            seen.links.append((name, kind, mac, master[0] if master else ""))
        case ["rules"]:
            seen.rules = text
        case ["ports"]:
            seen.ports = text
        case ["mounts"]:
            seen.mounts = text


def _parse(body: bytes) -> ET.Element | None:
    try:
        return ET.fromstring(body.strip())
    except ET.ParseError:
        return None  # caught in the middle of being replaced or removed


def _gist(cmdline: str) -> str:
    """What tells one helper process from another: the paths that it works on."""
    words = cmdline.strip("\n\0").split("\0")[1:]
    return _NUMBERED.sub("domain-*-", " ".join(word for word in words if "/" in word and "pid" not in word))[:200]


def _rules(ruleset: str) -> Iterator[str]:
    """Every rule and every chain that is no base chain: empty tables and base chains stay behind their first use."""
    table = chain = pending = ""
    for line in (raw.strip() for raw in ruleset.splitlines()):
        if line.startswith("table "):
            table = line.removesuffix(" {")
        elif line.startswith("chain "):
            chain = line.removesuffix(" {")
            pending = f"{table} {chain}"
        elif line.startswith("type ") and " hook " in line:
            pending = ""
        elif line == "}":
            if chain and pending:
                yield pending
            chain = pending = ""
        elif line and chain:
            yield f"{table} {chain}: {line}"


def _stable(text: str, taps: dict[str, str]) -> str:
    """Name taps by their MAC, which they keep, and not by libvirt's running number."""
    if "vnet" not in text and "macvtap" not in text:  # the names that libvirt gives
        return text
    for name, mac in taps.items():
        text = re.sub(rf"(?<![a-zA-Z0-9]){re.escape(name)}(?![0-9])", f"tap({mac})", text)
    return text


def _ports(listing: str) -> Iterator[str]:
    """Ports on which VMs' processes listen; those of daemons are theirs to open and close."""
    for line in listing.splitlines():
        words = line.split()
        owner = _PERSISTENT_PORTS.search(line)
        if owner and len(words) >= 5:
            yield f"{owner[1]} {words[0]} {words[4]}"


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
