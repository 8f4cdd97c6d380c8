"""The lab file that a nested libvirt lab writes about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from conformance.lab.inventory import Image, LabInventory
from conformance.model import Evidence
from labs.kvm import daemons
from labs.kvm.accel import Accelerator
from labs.kvm.layout import HOSTS, NETWORKS, Cell
from labs.kvm.networks import lease_file
from labs.kvm.nodes import Node
from labs.kvm.storage import STORAGES


def inventory(cell: Cell, nodes: Mapping[str, Node], images: Sequence[Image], found: Accelerator) -> LabInventory:
    """Describe a cell that is up."""
    hosts = [
        {
            "name": host,
            "address": cell.address4(host),
            "address6": cell.address6(host),
            "shell": {"kind": "namespace", "pid": nodes[host].pid},
            "service": daemons.command(cell, host),
        }
        for host in HOSTS
    ]
    networks = [
        {
            "name": network.name,
            "bridge": network.name,
            "ipv4": f"{network.prefix4}.0/24",
            "ipv6": f"{network.prefix6}::/64",
            "gateway4": network.peer4,
            "dns": network.peer4,
            "mtu": network.mtu,
            "peer": {"kind": "namespace", "pid": nodes[network.node].pid},
            "peer_interface": network.peer_interface,
            "lease_file": lease_file(cell, network),
        }
        for network in NETWORKS
    ]
    storages = [{"name": name, "path": cell.storage(name), "shared": shared} for name, shared in STORAGES.items()]
    target = {"slug": "kvm-libvirt", "driver": "libvirt", "hosts": HOSTS, "options": _options(cell, found)}
    return LabInventory.model_validate(
        {
            "name": cell.name,
            "kind": "kvm",
            "evidence": Evidence.NESTED,
            "evidence_note": found.note,
            "state_dir": cell.dir,
            "host": hosts,
            "network": networks,
            "storage": storages,
            "image": images,
            "target": [target],
        }
    )


def _options(cell: Cell, found: Accelerator) -> dict[str, Any]:
    return {
        "uris": cell.uris(),
        "direct_kernel": True,
        "domain_type": "kvm" if found.name == "kvm" else "qemu",
    }


def toml(inventory: LabInventory) -> str:
    """As a lab file: a table an item, and inline tables within."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in inventory.model_dump(mode="json", by_alias=True, exclude_none=True).items():
        if isinstance(value, list):
            for item in value:
                tables += ["", f"[[{key}]]", *(f"{name} = {_value(part)}" for name, part in item.items())]
        else:
            lines.append(f"{key} = {_value(value)}")
    return "\n".join([*lines, *tables, ""])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    # JSON's strings, whole numbers and truth values are TOML's too
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
