"""The lab file's page: its example loads, and every key of the model is on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from conformance.lab import inventory
from conformance.lab.inventory import parse

PAGE = (Path(__file__).parents[2] / "docs" / "lab-file.md").read_text(encoding="utf-8")


def test_example_is_a_lab_file() -> None:
    lab = parse(PAGE.split("```toml\n")[1].split("```")[0], "the example")

    assert [host.name for host in lab.hosts] == ["kvm1", "kvm2"]
    assert set(lab.target("kvm-libvirt").options["uris"]) == {"kvm1", "kvm2"}


@pytest.mark.parametrize(
    "model",
    [
        inventory.LabInventory,
        inventory.Host,
        inventory.SshShell,
        inventory.NamespaceShell,
        inventory.WinrmShell,
        inventory.Network,
        inventory.Storage,
        inventory.Image,
        inventory.Target,
    ],
)
def test_every_key_is_described(model: type[BaseModel]) -> None:
    text = PAGE.split("## A complete example")[0]
    keys = [field.alias or name for name, field in model.model_fields.items()]

    assert [key for key in keys if not re.search(rf"\b{key}\b", text)] == []
