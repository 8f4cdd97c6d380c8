"""The messages between transport and host: pipelines ready to be bound, and the checked answers of `answer.ps1`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.errors import HypervisorFailure
from drivers.hyperv import scripts
from drivers.hyperv.transport.base import Command, JsonValue, RemoteError, Result, Script, Step

DISPATCH, POOL = "dispatch", "pool"
"""The scripts that answer, in a shell and in a runspace pool."""
SHAPE = "shape"


@dataclass(frozen=True, slots=True)
class Bound:
    """One element of a pipeline with all its parameters.

    Args:
        name: The cmdlet, or the script's name.
        script: Whether it is a script of the project.
    """

    name: str
    parameters: Mapping[str, JsonValue]
    script: bool


def bind(pipeline: Sequence[Step], select: Sequence[str], depth: int) -> list[Bound]:
    """A pipeline as it is sent: errors end it, and `shape.ps1` writes what comes out.

    Raises:
        ValueError: There is nothing to run; a mistake of the driver.
    """
    if not pipeline:
        raise ValueError("an empty pipeline")
    bound = []
    for step in pipeline:
        if isinstance(step, Script):
            bound.append(Bound(step.name, dict(step.parameters), True))
        else:
            # without it an error of a cmdlet in the middle would let the rest of the pipeline run on
            bound.append(Bound(step.cmdlet, {"ErrorAction": "Stop", **step.parameters}, False))
    bound.append(Bound(SHAPE, {"Select": list(select), "Depth": depth}, True))
    return bound


def definition(name: str) -> bytes:
    """The line that tells `answer.ps1` a script."""
    return _line({"define": name, "text": scripts.text(name)})


def request(id: int, pipeline: Sequence[Bound]) -> bytes:
    """The line that asks `answer.ps1` to run a pipeline.

    Raises:
        ValueError: A parameter is not a JSON value.
    """
    steps = [{"script" if step.script else "cmdlet": step.name, "parameters": step.parameters} for step in pipeline]
    return _line({"id": id, "pipeline": steps})


def _line(message: object) -> bytes:
    # NaN and infinity are no JSON, and PowerShell would take the whole line for broken
    return json.dumps(message, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a pipeline: objects, or the error that ended it."""

    result: Result
    error: RemoteError | None = None


def answer(line: bytes, id: int) -> Answer:
    """Read the answer of `answer.ps1` to the request `id`.

    Raises:
        HypervisorFailure: It is not one.
    """
    try:
        message = json.loads(line.decode("ascii"))
        if not isinstance(message, dict) or message["id"] != id or not isinstance(message["ok"], bool):
            raise ValueError("another message was expected")
        warnings = [str(item) for item in message["warnings"]]
        if not message["ok"]:
            return Answer(Result([], warnings), _error(message["error"]))
        return Answer(Result([_object(item) for item in message["objects"]], warnings))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        shown = line[:200].decode("ascii", "backslashreplace")
        raise HypervisorFailure(f"not an answer of answer.ps1: {shown!r} ({error})") from None


def _object(item: object) -> dict[str, JsonValue]:
    if not isinstance(item, dict):
        raise ValueError("an object was expected")
    return item


def _error(error: Mapping[str, Any]) -> RemoteError:
    return RemoteError(
        str(error["message"]),
        error_id=str(error["id"] or ""),
        category=str(error["category"] or ""),
        hresult=int(error["hresult"] or 0),
        exception=str(error["exception"] or ""),
    )


def describe(pipeline: Sequence[Step]) -> str:
    """A pipeline for people, without the values of its parameters: ``Get-VM | Stop-VM``."""
    return " | ".join(step.cmdlet if isinstance(step, Command) else f"{step.name}.ps1" for step in pipeline)
