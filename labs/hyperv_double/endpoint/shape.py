"""What `shape.ps1` does to objects, done by the double: properties selected, cut at a depth, written as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import cast


def texts(objects: Sequence[object], select: Sequence[str], depth: int) -> list[str]:
    """One JSON text for each object."""
    return [json.dumps(_one(item, select, depth), ensure_ascii=True, separators=(",", ":")) for item in objects]


def _one(item: object, select: Sequence[str], depth: int) -> dict[str, object]:
    if select:
        return {path: _path(item, path.split("."), depth) for path in select}
    value = _value(item, depth + 1)
    return cast(dict[str, object], value) if isinstance(value, dict) else {"Value": value}


def _path(item: object, names: Sequence[str], depth: int) -> object:
    if not names:
        return _value(item, depth)
    if _is_list(item):
        return [_path(element, names, depth) for element in cast(Sequence[object], item)]
    if not isinstance(item, Mapping):
        return None
    # PowerShell does not mind the case of a property's name
    found = next((value for key, value in item.items() if str(key).lower() == names[0].lower()), None)
    return _path(found, names[1:], depth)


def _value(item: object, left: int) -> object:
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    if item is None or isinstance(item, bool | int | str):
        return item
    if _is_list(item):
        return [_value(element, left) for element in cast(Sequence[object], item)]
    if isinstance(item, Mapping):
        if left <= 0:
            return str(item.get("Name", "object"))
        return {str(key): _value(value, left - 1) for key, value in item.items()}
    raise TypeError(f"an engine returned a {type(item).__name__}, which is no value of a property")


def _is_list(item: object) -> bool:
    return isinstance(item, Sequence) and not isinstance(item, str | bytes)
