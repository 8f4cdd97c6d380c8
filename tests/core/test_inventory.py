"""Lab files: every problem at once, with its place, and never the value that somebody should not have written there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conformance.errors import LabFileError
from conformance.lab import inventory
from labs.nested.cell import toml
from labs.simulated import SimulatedLab


@pytest.fixture
def text(tmp_path: Path) -> str:
    return toml(SimulatedLab.up(0, tmp_path, lambda _: None))


def test_a_good_file_is_read_as_it_was_written(text: str, tmp_path: Path) -> None:
    lab = inventory.parse(text, "lab.toml")
    assert lab == SimulatedLab.up(0, tmp_path, lambda _: None)
    assert lab.host("a").name == "a"


def test_all_problems_come_at_once_with_their_places(text: str) -> None:
    broken = text.replace('evidence = "simulated"', 'evidence = "wishful"').replace('name = "net1"', 'name = "net 1"')
    with pytest.raises(LabFileError) as error:
        inventory.parse(broken, "lab.toml")
    assert "lab.toml is not a lab file" in str(error.value)
    assert "  evidence: Input should be 'hardware'" in str(error.value)
    assert "  network.0.name: " in str(error.value)
    assert "docs/lab-file.md" in error.value.hint


def test_a_value_is_never_repeated_since_it_may_be_a_secret(text: str) -> None:
    with pytest.raises(LabFileError) as error:
        inventory.parse(text + '\n[password]\nroot = "hunter2"\n', "lab.toml")
    assert "password" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_names_must_be_unique_and_known(text: str) -> None:
    with pytest.raises(LabFileError, match="host named twice: a"):
        inventory.parse(text.replace('name = "b"', 'name = "a"', 1), "lab.toml")
    with pytest.raises(LabFileError, match="names unknown hosts: c; known: a, b"):
        inventory.parse(text.replace('hosts = ["a", "b"]', 'hosts = ["a", "c"]', 1), "lab.toml")


def test_a_disk_without_a_boot_loader_needs_a_kernel(text: str) -> None:
    broken = re.sub(r'(name = "corrupt".*?boot_loader = )true', r"\1false", text, flags=re.DOTALL)
    with pytest.raises(LabFileError, match=r"image\.\d+: .*image corrupt has no boot loader, and no kernel and initrd"):
        inventory.parse(broken, "lab.toml")


def test_an_unknown_name_is_answered_with_the_known_ones(text: str) -> None:
    lab = inventory.parse(text, "lab.toml")
    with pytest.raises(LabFileError, match=r"no network 'net9'\n  try: known: net1, net2"):
        lab.network("net9")


def test_a_file_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(LabFileError, match="no lab file"):
        inventory.load(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(LabFileError, match="cannot be read"):
        inventory.load(tmp_path / "binary.toml")
