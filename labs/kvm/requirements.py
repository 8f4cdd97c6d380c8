"""What a machine needs for the nested libvirt lab, and how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

_COMMANDS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "libvirtd": "libvirt-daemon",
    "virtlogd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "dnsmasq": "dnsmasq-base",
    "nft": "nftables",
    "xtables-nft-multi": "iptables",  # libvirt's network filters call ebtables, iptables, ip6tables
    "ip": "iproute2",
    "ss": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mkfs.ext4": "e2fsprogs",
}
_DRIVERS = Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver")
_FILES = {
    _DRIVERS / "libvirt_driver_qemu.so": "libvirt-daemon-driver-qemu",
    _DRIVERS / "libvirt_driver_storage.so": "libvirt-daemon-driver-storage",
    Path("/etc/libvirt/nwfilter/clean-traffic.xml"): "libvirt-daemon-config-nwfilter",
    Path("/usr/share/OVMF/OVMF_CODE_4M.fd"): "ovmf",
}
PACKAGES = frozenset({*_COMMANDS.values(), *_FILES.values()})
"""The Debian packages that this kind of lab needs."""
_DEVICES = {Path("/dev/net/tun"): "modprobe tun", Path("/dev/loop-control"): "modprobe loop"}


def missing() -> Sequence[tuple[str, str]]:
    """What is missing here: (what, how to get it)."""
    found = [
        (f"the command {command}", _install(package))
        for command, package in _COMMANDS.items()
        if shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None
    ]
    found += [(f"the file {path}", _install(package)) for path, package in _FILES.items() if not path.exists()]
    found += [(f"the device {path}", command) for path, command in _DEVICES.items() if not path.exists()]
    if os.geteuid() != 0:
        found.append(("root, to make namespaces, links and mounts", "run it with sudo"))
    return found


def _install(package: str) -> str:
    return f"apt-get install --no-install-recommends {package}"
