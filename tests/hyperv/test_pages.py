"""What the pages about Hyper-V say holds: the lab file loads, every option and every knob is described."""

from __future__ import annotations

import dataclasses
import re
from fnmatch import fnmatchcase
from pathlib import Path

from conformance.contract import load
from conformance.lab.inventory import WinrmShell, parse
from drivers.hyperv import options
from labs.hyperv_double import manifest
from labs.hyperv_double.model import Knobs

DOCS = Path(__file__).parents[2] / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_lab_file_of_the_vendors_path() -> None:
    lab = parse(page("labs/hyperv.md").split("```toml\n")[1].split("```")[0], "the example")

    assert {type(host.shell) for host in lab.hosts} == {WinrmShell}
    target = lab.target("hyperv")
    # the authority's certificate is not on this machine
    given = {**target.options, "ca_file": ""}
    parsed = options.parse(target.model_copy(update={"options": given}))
    assert set(parsed.endpoints) == {"hv1", "hv2"}
    assert set(parsed.vlans) == {network.name for network in lab.networks}


def test_every_option_is_described() -> None:
    text = page("drivers/hyperv.md")
    assert [name for name in options.Options.model_fields if not re.search(rf"`{name}`", text)] == []


def test_every_knob_is_described() -> None:
    text = page("labs/hyperv-double.md")
    assert [field.name for field in dataclasses.fields(Knobs) if f"`{field.name}`" not in text] == []


def test_the_manifest_names_requirements_of_the_contract() -> None:
    known = list(load().requirements)
    dead = [name for name in manifest.load().not_testable if not any(fnmatchcase(id, name) for id in known)]
    assert dead == []
    assert all(manifest.load().not_testable.values()), "a requirement is left out without a reason"
