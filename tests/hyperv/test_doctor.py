"""`hvconform doctor --lab FILE`: what a target's hosts lack is said with the way out, and nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner

from conformance.cli.doctor import doctor
from conformance.model import Finding
from drivers.hyperv import cmdlets
from drivers.hyperv.diagnosis import NEEDED, WAYS
from labs.hyperv_double.lab import inventory
from labs.hyperv_double.site import stop, watch
from labs.nested.cell import toml
from labs.simulated import world as worlds
from tests.hyperv.conftest import Bench


def test_what_is_needed_is_in_the_table() -> None:
    assert [mistake for name, keys in NEEDED.items() for mistake in cmdlets.mistakes(name, keys)] == []


def test_a_host_that_has_everything(hv: Bench) -> None:
    before = hv.inventory()
    found = hv.driver.diagnose()
    assert {finding.ok for finding in found} == {True}
    assert len(found) >= 2 * len(WAYS)
    assert hv.inventory() == before


def lacking(hv: Bench, change: Mapping[str, Any]) -> list[Finding]:
    knobs = hv.knobs("b")
    for name, value in change.items():
        setattr(knobs, name, value)
    driver = hv.connect()
    try:
        return [finding for finding in driver.diagnose() if not finding.ok]
    finally:
        driver.close()


def test_what_only_some_capability_needs_is_said_and_no_fault(hv: Bench) -> None:
    found = lacking(hv, {"migration_enabled": False})
    assert [finding.needed for finding in found] == [False, False]
    assert "Enable-VMMigration" in found[0].how
    assert "live migrations are not enabled on b" in found[1].what


def test_a_host_that_does_not_answer_is_a_finding(hv: Bench) -> None:
    hv.running.endpoints["b"].close()
    wrong = [finding for finding in hv.driver.diagnose() if not finding.ok]
    assert wrong
    assert wrong[0].what.startswith("b: ")


@pytest.fixture
def file(tmp_path: Any) -> Any:
    lab = inventory("doctor", {})
    watch(lab)
    path = tmp_path / "lab.toml"
    path.write_text(toml(lab), encoding="utf-8")
    yield path
    stop("doctor")
    worlds.forget("doctor")


def test_the_command(file: Any) -> None:
    done = CliRunner().invoke(doctor, ["--lab", str(file), "--target", "hyperv-double"])
    assert done.exit_code == 0, done.output
    assert "ok       observers of doctor: 2 hosts, 2 networks" in done.output
    assert "ok       target hyperv-double: b: the service vmms is Running" in done.output
    assert "offers agent, clone, console.log" in done.output


def test_the_command_says_what_is_missing(file: Any) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('bridge = "lab"', 'bridge = "lab2"'), encoding="utf-8")
    done = CliRunner().invoke(doctor, ["--lab", str(file)])
    assert done.exit_code == 1
    assert "missing  target hyperv-double: a: switch lab2\n         get it: New-VMSwitch -Name lab2" in done.output
    file.write_text(text.replace("HVCONFORM_DOUBLE_PASSWORD", "HVCONFORM_NO_SUCH_PASSWORD"), encoding="utf-8")
    done = CliRunner().invoke(doctor, ["--lab", str(file)])
    assert done.exit_code == 1
    assert (
        "missing  target hyperv-double: the environment variable HVCONFORM_NO_SUCH_PASSWORD is not set" in done.output
    )


def test_the_command_called_wrongly(file: Any) -> None:
    assert CliRunner().invoke(doctor, ["--target", "x"]).exit_code == 2
    unknown = CliRunner().invoke(doctor, ["--lab", str(file), "--target", "x"])
    assert "has no target 'x'" in str(unknown.exception)
