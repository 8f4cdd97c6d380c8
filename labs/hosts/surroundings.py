"""What any VM may leave on a Linux host: files, links, rules, ports, mounts; read by one script from /proc and /sys.

Names in the inventory stay the same while nothing happens and when a daemon restarts: no PIDs, no domain numbers, no
numbered interfaces.
"""

from __future__ import annotations

import re
import secrets
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from conformance.errors import ProbeFailed
from conformance.observers.host import Kind
from conformance.shells.shell import Shell

_BEGIN = r"""
token=$1; what=$2; vms=yes; shift 2
say() { printf '\n%s %s\n' "$token" "$*"; }
# a section "file" for each that has anything in it, its name in the first line; one process for all of them
show() { sed -s "1{h;z;s/^/\n$token file/p;F;g}" -- "$@" 2>/dev/null; }
files=
"""
# the folders are left in "$@"
_END = r"""
[ "$what" = all ] || { [ -z "$files" ] || show $files; say end; exit 0; }
say files
find "$@" -mindepth 1 \( -type d ! -name 'domain-*' -o -name lost+found -o -printf '%y %s %p\0' \) 2>/dev/null
for n in /sys/class/net/*; do
    read -r mac < "$n/address"
    kind=other
    if [ -e "$n/tun_flags" ]; then kind=tap; elif [ -d "$n/bridge" ]; then kind=bridge; fi
    case ${n##*/} in macvtap*) kind=tap;; vif[0-9]*.[0-9]*) kind=vif;; esac
    master=
    # by what every bridge lists: no process is started for it
    for m in /sys/class/net/*/brif/"${n##*/}"; do [ ! -e "$m" ] || { master=${m%/brif/*}; master=${master##*/}; }; done
    say link "${n##*/}" "$kind" "$mac" "$master"
done
say rules; nft -s list ruleset 2>/dev/null
[ -z "$vms" ] || { say ports; ss -lntupH 2>/dev/null; }
show $files /proc/self/mounts
say end
"""

_PATIENCE_S = 60.0  # a busy or emulated host is slow, and no less well for it

Take = Callable[[list[str], bytes], None]
"""Given the words of a section's line and the section's text."""


@dataclass(slots=True)
class Surroundings:
    """The parts of a look that know no hypervisor."""

    files: list[tuple[str, str, str]] = field(default_factory=list)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)
    rules: str = ""
    ports: str = ""
    mounts: str = ""

    def take(self, words: list[str], body: bytes) -> None:
        """Take a section that is one of these."""
        text = body.decode(errors="replace")
        match words:
            case ["files"]:
                for item in text.strip("\n").split("\0"):
                    if item:
                        kind, size, path = item.split(" ", 2)
                        self.files.append((kind, size, path))
            case ["link", name, kind, mac, *master]:
                self.links.append((name, kind, mac, master[0] if master else ""))
            case ["rules"]:
                self.rules = text
            case ["ports"]:
                self.ports = text
            case ["file", "/proc/self/mounts"]:
                self.mounts = text

    def entries(
        self,
        places: Sequence[str],
        bridges: Sequence[str],
        interfaces: Mapping[str, str],
        owners: str,
        masked: Callable[[str], str],
    ) -> Iterator[tuple[Kind, str, str]]:
        """As inventory entries: kind, name, detail.

        Args:
            places: Folders whose mounts count.
            bridges: The lab's bridges: what is plugged into them counts, whatever kind of interface it is.
            interfaces: Names of VMs' interfaces, and how each is called in the inventory: by what it keeps.
            owners: Pattern of processes whose ports count; those of daemons are theirs to open and close.
            masked: Takes running numbers out of a path.
        """
        for _, size, path in self.files:
            yield Kind.FILE, stable(masked(path), interfaces), f"{size} bytes"
        for name, kind, _, master in self.links:
            if name in interfaces:
                yield Kind.INTERFACE, interfaces[name], f"{name} in {master}"
            elif kind == "bridge" or master in bridges:
                yield Kind.INTERFACE, name, f"in {master}" if master else kind
        for rule in _rules(self.rules):
            yield Kind.RULE, stable(rule, interfaces), ""
        for port in _ports(self.ports, owners):
            yield Kind.PORT, port, ""
        for line in self.mounts.splitlines():
            device, place, kind = line.split()[:3]
            if any(place == root or place.startswith(f"{root}/") for root in places):
                yield Kind.MOUNT, place, f"{kind} {device}"


def look(shell: Shell, host: str, script: str, folders: Sequence[str], take: Take, *, everything: bool) -> None:
    """Look at a host.

    Args:
        script: The hypervisor's part: `say WORDS` begins a section. Only builtins in loops over /proc. It may set `vms`
            to nothing where no VM's process runs, which saves looking for their ports, and `files` to what else shall
            be read, as patterns: each gets a section `file PATH` unless it is empty or gone.
        folders: Whose files count.
        take: Gets every section, in order.
        everything: False leaves out what `Surroundings` takes.
    """
    token = f"@{secrets.token_hex(8)}"  # guests and strangers choose names and metadata: none can guess a section line
    words = [token, "all" if everything else "domains", *folders]
    done = shell.script(_BEGIN + script + _END, *words, timeout_s=_PATIENCE_S)
    last = ""
    for part in done.stdout.split(f"\n{token} ".encode())[1:]:
        head, _, body = part.partition(b"\n")
        words = head.decode(errors="replace").split(" ")
        if words == ["file"]:
            path, _, body = body.partition(b"\n")
            words.append(path.decode(errors="replace"))
        last = words[0]
        take(words, body)
    if last != "end":
        raise ProbeFailed(f"the look at host {host} broke off after {last or 'nothing'!r}")


def parse(body: bytes) -> ET.Element | None:
    """An XML file of the management daemon; None for one caught in the middle of being replaced or removed."""
    try:
        return ET.fromstring(body.strip())
    except ET.ParseError:
        return None


def stable(text: str, interfaces: Mapping[str, str]) -> str:
    """Name a VM's interfaces by what they keep, and not by a running number."""
    for name, kept in interfaces.items():
        if name in text:
            text = re.sub(rf"(?<![a-zA-Z0-9]){re.escape(name)}(?![0-9])", f"({kept})", text)
    return text


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


def _ports(listing: str, owners: str) -> Iterator[str]:
    owner = re.compile(rf'users:\(\("({owners})"')
    for line in listing.splitlines():
        words = line.split()
        found = owner.search(line)
        if found and len(words) >= 5:
            yield f"{found[1]} {words[0]} {words[4]}"
