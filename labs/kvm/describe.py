"""The lab file that a nested libvirt lab writes about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conformance.lab.inventory import Image, LabInventory
from conformance.model import Evidence
from labs.kvm import daemons
from labs.kvm.layout import HOSTS, Cell
from labs.kvm.networks import lease_file
from labs.kvm.nodes import Node
from labs.nested.accel import Accelerator
from labs.nested.networks import NETWORKS, entry
from labs.nested.storage import STORAGES


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
        entry(network, {"kind": "namespace", "pid": nodes[network.node].pid}, lease_file(cell, network))
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
