"""The driver's script doctor.ps1, spoken by the model: no PowerShell runs here, and what it would find is answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from labs.hyperv_double.model.cmdlets import REGISTRY, Call, Item, cmdlet


def _texts(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [] if value is None else [value])]


@cmdlet("doctor", "Wanted", "Switches", "Folders", "Others", module="scripts")
def doctor(call: Call) -> Iterable[Item]:
    """What the host has of what the driver needs."""
    model = call.model
    lacking = []
    for name, parameters in (call.get("Wanted") or {}).items():
        known = REGISTRY.get(str(name).lower())
        if known is None:
            lacking.append(str(name))
            continue
        there = known.parameters | {"asjob", "passthru", "confirm", "force"}
        lacking += [f"{name} -{each}" for each in _texts(parameters) if each.lower() not in there]

    def check(name: str, ok: bool, detail: str = "") -> Item:
        return Item("Check", None, {"Check": name, "Ok": ok, "Detail": detail})

    yield check("powershell", True, "5.1.17763.1")
    yield check("vmms", model.host.management_up, "Running" if model.host.management_up else "Stopped")
    yield check("cmdlets", not lacking, ", ".join(lacking))
    yield check("rights", True)
    yield check("version", True, "9.0")
    switches = {switch for switch, _ in model.site.segments}
    for name in _texts(call.get("Switches")):
        yield check("switch", name in switches, name)
    storages = {str(storage.path) for storage in model.site.world.inventory.storages}
    for folder in _texts(call.get("Folders")):
        yield check("folder", folder in storages or model.site.file(model.host, folder) is not None, folder)
    yield check("migration", model.knobs.migration_enabled, model.knobs.migration_authentication)
    for address in _texts(call.get("Others")):
        other = model.site.host_at(address)
        yield check("link", other is not None and other.name not in model.host.cut_from, address)
