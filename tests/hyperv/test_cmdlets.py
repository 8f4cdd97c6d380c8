"""Every command that the driver can emit is one that Windows has, by Microsoft's reference."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.hyperv import cmdlets
from drivers.hyperv.transport import Command, Script

DRIVER = Path(cmdlets.__file__).parent


def emitted() -> Iterator[tuple[str, str, list[str]]]:
    """The commands in the driver's source: where, the cmdlet, and the parameters that stand there as text."""
    for path in sorted(DRIVER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "Command" or not node.args:
                continue
            first, *rest = node.args
            if not isinstance(first, ast.Constant):
                continue  # checked when it is sent, as all are
            keys = rest[0].keys if rest and isinstance(rest[0], ast.Dict) else []
            names = [key.value for key in keys if isinstance(key, ast.Constant)]
            yield f"{path.name}:{node.lineno}", str(first.value), [str(name) for name in names]


def test_every_command_in_the_source_is_in_the_table() -> None:
    found = list(emitted())
    assert len(found) > 20, "nothing was looked at"
    wrong = [f"{where}: {mistake}" for where, name, keys in found for mistake in cmdlets.mistakes(name, keys)]
    assert wrong == []


def test_every_command_is_checked_when_it_is_sent() -> None:
    cmdlets.check(Command("Get-VM", {"Id": "1", "ErrorAction": "Stop"}))
    cmdlets.check(Command("stop-vm", {"turnoff": True}))
    cmdlets.check(Script("shape", {"Anything": 1}))
    with pytest.raises(ValueError, match=r"Stop-VM has no -Bogus in 2016: https://.*/hyper-v/stop-vm"):
        cmdlets.check(Command("Stop-VM", {"Bogus": True}))
    with pytest.raises(ValueError, match=r"Get-VMM is not in cmdlets.toml"):
        cmdlets.check(Command("Get-VMM"))


def test_a_parameter_of_a_later_version_is_not_for_an_older_one() -> None:
    assert cmdlets.mistakes("New-VM", ["GuestStateIsolationType"], "2025") == []
    assert len(cmdlets.mistakes("New-VM", ["GuestStateIsolationType"], "2022")) == 1
