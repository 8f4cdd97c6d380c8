"""The double in this process: one endpoint a host before the model, started when somebody needs it."""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass

from conformance.lab.inventory import LabInventory
from labs.hyperv_double.endpoint import Account, Endpoint
from labs.hyperv_double.model import Model, Site, site_of
from labs.hyperv_double.names import PASSWORD, USER, variable
from labs.simulated import world as worlds


@dataclass
class Running:
    """A lab that is served in this process."""

    site: Site
    endpoints: dict[str, Endpoint]
    watched: int = 0
    """Sets of observers that are open; with the last one the endpoints end, and what they keep on disk."""


_running: dict[str, Running] = {}
_guard = threading.Lock()


def serve(lab: LabInventory) -> Running:
    """The lab's endpoints in this process, on ports of this process's own; started at the first call."""
    with _guard:
        if lab.name not in _running:
            os.environ.setdefault(PASSWORD, secrets.token_hex(12))
            world = worlds.get(lab)
            site = site_of(world)
            options = lab.targets[0].options
            vlans = options.get("vlans", {})
            site.segments = {
                (network.bridge, int(vlans.get(network.name, 0))): network.name for network in lab.networks
            }
            endpoints = {}
            for host in lab.hosts:
                endpoint = Endpoint(Model(site, host.name), accounts={USER: Account(os.environ[PASSWORD])})
                os.environ[variable(lab.name, host.name)] = f"127.0.0.1:{endpoint.port}"
                endpoints[host.name] = endpoint
            _running[lab.name] = Running(site, endpoints)
        return _running[lab.name]


def watch(lab: LabInventory) -> None:
    """Count a set of observers that is opened."""
    running = serve(lab)
    with _guard:
        running.watched += 1


def unwatch(name: str) -> None:
    """A set of observers is closed: a worker's own is the last of its process, and ends what it served."""
    with _guard:
        running = _running.get(name)
        if running is None:
            return
        running.watched -= 1
        last = running.watched <= 0
    if last:
        stop(name)


def stop(name: str) -> None:
    """End a lab's endpoints in this process."""
    with _guard:
        running = _running.pop(name, None)
    if running is not None:
        for endpoint in running.endpoints.values():
            endpoint.close()
