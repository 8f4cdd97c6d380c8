"""The guest probe for a stock Linux cloud image: the agent's verbs as shell commands over SSH, fewer of them.

`Guest(SshChannel(shell))` is a guest probe like any other. What needs an agent inside the guest (heartbeats, the
continuous writer, forged frames, hanging on request) is refused with "not available over SSH", and so is what this
image cannot tell. Root, or sudo without a password, is needed for identity, disks, the kernel log and power.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from conformance.errors import GuestSilent, HostDown, ProbeFailed
from conformance.guest.pattern import pattern
from conformance.shells.shell import Completed, Shell

_SUDO = 'S=; [ "$(id -u)" = 0 ] || S="sudo -n"\n'
_WRITE_BYTES = 16 * 1024 * 1024
_GRACE_S = 0.5
_PROBLEM = re.compile(
    r"Kernel panic|BUG:|Oops|Call Trace|soft lockup|hard LOCKUP|blocked for more than|I/O error|WARNING:"
)
_PCI = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")

Data = Mapping[str, Any]


class _Refused(Exception):
    """The guest, or this probe, cannot do what was asked."""


class SshChannel:
    """Answers the agent's requests by running commands in the guest.

    Args:
        shell: The guest's shell: an `SshShell` made for the guest's address.
    """

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def ask(self, line: str, timeout_s: float) -> str:
        verb, *args = line.split(" ")
        do = _VERBS.get(verb)
        try:
            if do is None:
                raise _Refused("not available over SSH")
            reply: dict[str, Any] = {"ok": True, "data": do(_Run(self._shell, timeout_s), *args)}
        except _Refused as refused:
            reply = {"ok": False, "error": str(refused)}
        except (TypeError, ValueError, LookupError) as error:
            reply = {"ok": False, "error": f"{verb}: {type(error).__name__}: {error}"}
        return json.dumps(reply)


class _Run:
    """Runs scripts within one request."""

    def __init__(self, shell: Shell, timeout_s: float) -> None:
        self._shell = shell
        self._timeout_s = timeout_s

    def __call__(self, script: str, *args: str, input: bytes | None = None) -> str:
        return self.completed(script, *args, input=input).text

    def completed(self, script: str, *args: str, input: bytes | None = None) -> Completed:
        """Run a script; `$S` in it is sudo where sudo is needed."""
        try:
            done = self._shell.run(
                ["sh", "-ec", _SUDO + script, "sh", *args], input=input, timeout_s=self._timeout_s, check=False
            )
        except (HostDown, ProbeFailed) as error:  # with check=False: it did not end in time
            self._shell.close()  # the connection may be half dead, and the next request must not wait for it
            raise GuestSilent(f"no answer over SSH: {error.message}") from None
        if done.status < 0:  # no exit status came: it was killed, or the connection broke
            raise GuestSilent(f"the command over SSH ended without an exit status ({done.status})")
        if done.status != 0:
            said = done.stderr.decode("utf-8", "replace").strip()[-300:]
            raise _Refused(said or f"the command ended with status {done.status}")
        return done


# who and which boot


def _boot(run: _Run) -> Data:
    script = """
        cat /proc/sys/kernel/random/boot_id /proc/uptime
        # the journal counts the boots, where the image keeps one across them
        [ -d /var/log/journal ] || exit 0
        boots=$($S journalctl --quiet --no-pager --list-boots | grep -cE '^ *-?[0-9]+ ')
        echo "$boots"
        [ "$boots" -lt 2 ] || $S journalctl --quiet --no-pager --boot=-1 --lines=100 --output=cat
    """
    boot_id, uptime, *journal = run(script).splitlines()
    if not journal:
        raise _Refused("not available over SSH: this image keeps no journal across boots, so boots are not counted")
    boots = int(journal[0])
    last_words = "\n".join(journal[1:])
    ended_well = re.search(r"(System is|Powering|Reached target).*(power|off|reboot|halt)", last_words, re.I)
    clean = boots == 1 or ended_well is not None
    return {"boot_id": boot_id, "boots": boots, "clean": clean, "uptime_ms": round(float(uptime.split()[0]) * 1000)}


def _identity(run: _Run) -> Data:
    script = """
        $S cat /sys/class/dmi/id/product_uuid
        [ -d /sys/firmware/efi ] && echo uefi || echo bios
        . /etc/os-release; echo "${ID:-linux}-${VERSION_ID:-}"
    """
    uuid, firmware, image_id = run(script).splitlines()
    return {"smbios_uuid": uuid.lower(), "image_id": image_id, "firmware": firmware, "agent_version": "ssh"}


# hardware


def _cpus(run: _Run) -> Data:
    online, *info = run("getconf _NPROCESSORS_ONLN; cat /proc/cpuinfo").splitlines()
    fields = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in info) if colon}
    flags = hashlib.sha256(fields.get("flags", "").encode()).hexdigest()
    return {"online": int(online), "flags_sha256": flags, "model": fields.get("model name", "")}


def _memory(run: _Run) -> Data:
    fields = dict(line.split(":", 1) for line in run("cat /proc/meminfo").splitlines() if ":" in line)
    return {
        "total_kib": int(fields["MemTotal"].split()[0]),
        "available_kib": int(fields["MemAvailable"].split()[0]),
    }


def _list_disks(run: _Run) -> list[dict[str, Any]]:
    script = """
        lsblk --json --bytes --nodeps --output NAME,SERIAL,SIZE,RO,TYPE
        echo
        for block in /sys/block/*; do echo "${block##*/} $(readlink -f "$block/device")"; done
    """
    shown, _, paths = run(script).rpartition("\n\n")
    where = dict(line.partition(" ")[::2] for line in paths.splitlines())
    return [
        {
            "name": disk["name"],
            "serial": (disk["serial"] or "").strip(),
            "size_bytes": int(disk["size"]),
            "readonly": bool(int(disk["ro"])),
            "address": _bus_address(where.get(disk["name"], "")),
        }
        for disk in json.loads(shown)["blockdevices"]
        if disk["type"] == "disk" and re.match(r"(vd|sd|xvd|nvme|hd)", disk["name"])
    ]


def _disks(run: _Run) -> Data:
    return {"disks": _list_disks(run)}


def _nics(run: _Run) -> Data:
    script = """
        ip -json address show; echo
        for nic in /sys/class/net/*; do
            [ -e "$nic/device" ] || continue
            echo "${nic##*/} $(ls -d "$nic"/queues/rx-* | wc -l) $(readlink -f "$nic/device")"
        done
    """
    shown, _, hardware = run(script).partition("\n")
    devices = {line.split()[0]: line.split()[1:] for line in hardware.splitlines() if line.strip()}
    return {
        "nics": [
            {
                "name": nic["ifname"],
                "mac": nic["address"],
                "mtu": nic["mtu"],
                "carrier": "LOWER_UP" in nic["flags"],
                "addresses": [f"{address['local']}/{address['prefixlen']}" for address in nic["addr_info"]],
                "queues": int(devices[nic["ifname"]][0]),
                "address": _bus_address(devices[nic["ifname"]][1]),
            }
            for nic in json.loads(shown)
            if nic["ifname"] in devices
        ]
    }


def _resolver(run: _Run) -> Data:
    script = """
        ip -4 -json route show default; echo
        ip -6 -json route show default; echo
        # systemd-resolved shows only itself in /etc/resolv.conf
        cat /run/systemd/resolve/resolv.conf 2>/dev/null || cat /etc/resolv.conf
    """
    lines = [line for line in run(script).splitlines() if line.strip()]
    routes4, routes6 = (json.loads(line) for line in lines[:2])
    servers = [line.split()[1] for line in lines[2:] if line.startswith("nameserver ")]
    return {
        "gateway4": next((route["gateway"] for route in routes4 if "gateway" in route), ""),
        "gateway6": next((route["gateway"] for route in routes6 if "gateway" in route), ""),
        "dns": servers,
    }


def _clocks(run: _Run) -> Data:
    script = (
        "python3 -c 'import time as t; print(*map(t.clock_gettime_ns, "
        "(t.CLOCK_MONOTONIC, t.CLOCK_REALTIME, t.CLOCK_BOOTTIME)))'"
    )
    monotonic, realtime, boottime = map(int, run(script).split())
    return {"monotonic_ns": monotonic, "realtime_ns": realtime, "boottime_ns": boottime}


def _kernel_problems(run: _Run) -> Data:
    return {"lines": [line for line in run("$S dmesg").splitlines() if _PROBLEM.search(line)][-200:]}


# disks


def _disk_hash(run: _Run, serial: str, offset: str, length: str) -> Data:
    script = """
        $S dd if="$1" bs=1M iflag=direct,skip_bytes,count_bytes skip="$2" count="$3" status=none | sha256sum
    """
    start, size = _range(offset, length)
    return {"sha256": run(script, _disk_path(run, serial), str(start), str(size)).split()[0]}


def _disk_write(run: _Run, serial: str, offset: str, length: str, seed: str) -> Data:
    script = """
        $S dd of="$1" bs=4096 iflag=fullblock oflag=direct,seek_bytes seek="$2" conv=fdatasync,notrunc status=none
    """
    start, size = _range(offset, length)
    if size > _WRITE_BYTES:
        raise _Refused(f"at most {_WRITE_BYTES} bytes at a time over SSH")
    data = pattern(int(seed), start, size)
    run(script, _disk_path(run, serial), str(start), input=data)
    return {"sha256": hashlib.sha256(data).hexdigest()}


def _disk_path(run: _Run, serial: str) -> str:
    for disk in _list_disks(run):
        if disk["serial"] == serial:
            return f"/dev/{disk['name']}"
    raise _Refused(f"no disk with the serial {serial!r}")


def _range(offset: str, length: str) -> tuple[int, int]:
    start, size = int(offset), int(length)
    if start < 0 or size <= 0 or start % 4096 or size % 4096:
        raise _Refused("offset and length must be multiples of 4096")
    return start, size


# memory, power, console


def _ram_put(run: _Run, key: str, value: str) -> Data:
    run('mkdir -p /dev/shm/hvconform; printf %s "$2" > /dev/shm/hvconform/"$1"', _word(key), _word(value))
    return {}


def _ram_get(run: _Run, key: str) -> Data:
    held = run('[ ! -e /dev/shm/hvconform/"$1" ] || { echo; cat /dev/shm/hvconform/"$1"; }', _word(key))
    return {"value": held[1:] if held else None}


def _reboot(run: _Run) -> Data:
    return _in_a_moment(run, "systemctl reboot || reboot")


def _poweroff(run: _Run) -> Data:
    return _in_a_moment(run, "systemctl poweroff || poweroff")


def _panic(run: _Run) -> Data:
    return _in_a_moment(run, "echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger")


def _in_a_moment(run: _Run, command: str) -> Data:
    # after the reply, so that it is not lost with the connection; "true" fails first when sudo is refused
    later = shlex.quote(f"sleep {_GRACE_S}; {command}")
    run(f"$S true; $S nohup sh -c {later} >/dev/null 2>&1 </dev/null &")
    return {}


def _print(run: _Run, token: str) -> Data:
    run('printf "%s\\n" "$1" | $S tee /dev/console >/dev/null', token)
    return {}


def _word(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,200}", text):
        raise _Refused("letters, digits and dashes only")
    return text


def _bus_address(path: str) -> str:
    """The innermost PCI address on a device's path, else the device's own name: as the agent says it."""
    pci = [part for part in path.split("/") if _PCI.fullmatch(part)]
    return pci[-1] if pci else path.rpartition("/")[2]


_VERBS: Mapping[str, Callable[..., Data]] = {
    "boot": _boot,
    "identity": _identity,
    "cpus": _cpus,
    "memory": _memory,
    "disks": _disks,
    "nics": _nics,
    "resolver": _resolver,
    "clocks": _clocks,
    "kernel-problems": _kernel_problems,
    "disk-hash": _disk_hash,
    "disk-write": _disk_write,
    "ram-put": _ram_put,
    "ram-get": _ram_get,
    "reboot": _reboot,
    "poweroff": _poweroff,
    "panic": _panic,
    "print": _print,
}
