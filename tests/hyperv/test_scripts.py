"""The PowerShell scripts: parsed, checked against the table, and the same that the double knows."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import tree_sitter
import tree_sitter_powershell

from drivers.hyperv import cmdlets, scripts
from drivers.hyperv.transport import messages, winrs
from labs.hyperv_double import manifest

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))

OWN = {
    "Format-Text",
    "Test-List",
    "Format-Number",
    "Format-Value",
    "Format-Path",
    "ConvertTo-Argument",
    "Get-Answer",
    "Format-Check",
}
"""Functions that the scripts define."""

CORE = {
    "New-Object": {"TypeName"},
    "ConvertFrom-Json": {"InputObject"},
    "ConvertTo-Json": {"InputObject", "Compress", "Depth"},
}
"""Cmdlets of the core that only scripts use, with what they take of it."""


def nodes(name: str) -> Iterator[tree_sitter.Node]:
    stack = [PARSER.parse(scripts.text(name).encode()).root_node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children)


@pytest.mark.parametrize("name", scripts.names())
def test_a_script_parses(name: str) -> None:
    wrong = [(node.type, node.start_point[0] + 1) for node in nodes(name) if node.type == "ERROR" or node.is_missing]
    assert wrong == []


@pytest.mark.parametrize("name", scripts.names())
def test_what_a_script_calls_exists(name: str) -> None:
    called = []
    for node in nodes(name):
        command = node.child_by_field_name("command_name") if node.type == "command" else None
        if command is None or command.text is None:
            continue
        cmdlet = command.text.decode()
        given = [child.text.decode().lstrip("-") for child in _parameters(node) if child.text is not None]
        called.append(cmdlet)
        if cmdlet in ("begin", "process", "end"):
            continue  # blocks of a script, which the grammar takes for commands after a param block
        if cmdlet in OWN:
            assert given == [], f"{cmdlet} is called by position"
        elif cmdlet in CORE:
            assert set(given) <= CORE[cmdlet]
        else:
            assert cmdlets.mistakes(cmdlet, given) == []
    assert called, "nothing was looked at"


def _parameters(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    for child in node.children:
        if child.type == "command_parameter":
            yield child
        elif child.type not in ("script_block_expression", "sub_expression", "parenthesized_expression"):
            yield from _parameters(child)


@pytest.mark.parametrize("name", scripts.names())
def test_a_script_is_of_the_small_dialect(name: str) -> None:
    source = (scripts.HERE / f"{name}.ps1").read_text(encoding="ascii")
    # leaving out comments and indentation must change nothing
    for forbidden in ("<#", "#>", "@'", '@"', "`"):
        assert forbidden not in source
    for line in source.splitlines():
        assert " #" not in line.lstrip() or line.lstrip().startswith("#"), "comments have lines of their own"
    assert "Invoke-Expression" not in source
    assert "iex" not in source.lower().split()


def test_the_bootstrap_fits_a_command_line_of_cmd() -> None:
    line = " ".join([winrs.COMMAND, *winrs.ARGUMENTS, "-EncodedCommand", scripts.encoded(messages.DISPATCH)])
    assert len(line) < winrs.COMMAND_LINE
    assert base64.b64decode(scripts.encoded("dispatch")).decode("utf-16-le") == scripts.text("dispatch")


def test_the_double_knows_the_scripts_that_are_sent() -> None:
    assert manifest.load().scripts == {scripts.sha256(name): name for name in scripts.names()}, (
        "write the new SHA-256 into labs/hyperv_double/manifest.toml, once the double speaks the script's protocol"
    )


def test_a_broken_script_is_seen() -> None:
    tree = PARSER.parse(b"if ($a { }")
    assert tree.root_node.has_error


POWERSHELL = shutil.which("pwsh") or shutil.which("powershell")


@pytest.mark.skipif(POWERSHELL is None, reason="no PowerShell on this machine: the scripts are only parsed here")
def test_the_scripts_work_in_a_real_powershell() -> None:
    assert POWERSHELL is not None
    pipeline = messages.bind(
        [messages.Command("New-Object", {"TypeName": "System.Version", "ArgumentList": ["1.2"]})], ["Major"], 2
    )
    lines = [
        messages.definition(messages.SHAPE),
        messages.request(1, pipeline),
        messages.request(2, messages.bind([messages.Command("Get-Item", {"LiteralPath": "no $(1+1) 'such'"})], [], 0)),
    ]
    done = subprocess.run(
        [POWERSHELL, *winrs.ARGUMENTS, "-EncodedCommand", scripts.encoded(messages.DISPATCH)],
        input=b"".join(lines),
        capture_output=True,
        timeout=120,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert messages.answer(first, 1).result.objects == [{"Major": 1}]
    error = messages.answer(second, 2).error
    assert error is not None
    assert error.category == "ObjectNotFound"
    assert json.loads(second)["ok"] is False
