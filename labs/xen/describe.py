"""The lab file that a nested Xen lab writes about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conformance.lab.inventory import LabInventory, SshShell
from conformance.model import Evidence
from labs.nested.networks import NETWORKS, entry
from labs.nested.storage import STORAGES
from labs.xen import machine
from labs.xen.layout import FIRST, HOSTS, Cell, address4, address6, storage
from labs.xen.networks import lease_file
from labs.xen.saved import Parts, Saved

_SERVICE = "libvirtd -d --listen -p /run/libvirtd.pid </dev/null >/dev/null 2>&1"
CONSOLES = "/var/log/xen/console"
"""Where xenconsoled logs what guests print, as guest-NAME.log."""


def inventory(cell: Cell, kept: Saved, made: Parts, ports: Mapping[str, machine.Ports]) -> LabInventory:
    """Describe a cell that is up."""
    shells = {host: kept.shell(ports[host]) for host in HOSTS}
    hosts = [
        {
            "name": host,
            "address": address4(host),
            "address6": address6(host),
            "shell": shells[host],
            "service": _SERVICE,
            "memory_mib": machine.GUESTS_MIB,
        }
        for host in HOSTS
    ]
    networks = [entry(network, _inside(shells[FIRST], network.node), lease_file(network)) for network in NETWORKS]
    storages = [{"name": name, "path": str(storage(name)), "shared": shared} for name, shared in STORAGES.items()]
    return LabInventory.model_validate(
        {
            "name": cell.name,
            "kind": "xen",
            "evidence": Evidence.NESTED,
            "evidence_note": f"{made.hypervisor.note}; {made.accelerator.note}",
            "state_dir": cell.dir,
            "host": hosts,
            "network": networks,
            "storage": storages,
            "image": made.images,
            "target": [_target(guests, ports, shells) for guests in ("pv", "pvh", "hvm")],
        }
    )


def _inside(shell: SshShell, namespace: str) -> dict[str, Any]:
    return {**shell.model_dump(), "netns": namespace}


def _target(guests: str, ports: Mapping[str, machine.Ports], shells: Mapping[str, SshShell]) -> dict[str, Any]:
    options = {
        "uris": {host: f"xen+tcp://127.0.0.1:{ports[host].libvirt}/system" for host in HOSTS},
        "guest_type": guests,
        "console_logs": CONSOLES,
        "xl": {host: shell.model_dump(mode="json", exclude_none=True) for host, shell in shells.items()},
        "migrate": {"mode": "direct", "uris": {host: f"xen+tcp://{address4(host)}/system" for host in HOSTS}},
    }
    return {"slug": f"xen-{guests}", "driver": "xen", "hosts": HOSTS, "options": options}
