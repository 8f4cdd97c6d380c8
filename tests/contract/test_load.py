"""The contract's data: complete, well formed, and rejected with the file and the row when they are not."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

import conformance.contract
from conformance.contract import ContractError, Level, Observer, UnknownRequirement, load, read
from conformance.errors import LabError
from conformance.model import Capability

HOME = Path(conformance.contract.__file__).parent


def test_it_is_complete() -> None:
    contract = load()

    levels = Counter(row.level for row in contract.requirements.values())
    assert levels == {Level.MUST: 95, Level.CONDITIONAL: 180, Level.SHOULD: 58}
    assert sum(row.tier == 1 for row in contract.requirements.values()) == 201
    assert len(contract.provenances) == 14


def test_every_area_has_requirements_in_reading_order() -> None:
    contract = load()

    assert [row.area for row in contract.requirements.values()] == [
        area for area in contract.areas for _ in contract.in_area(area)
    ]
    assert all(contract.in_area(area) for area in contract.areas)


def test_every_statement_is_one_plain_sentence() -> None:
    for row in load().requirements.values():
        assert row.statement[0].isupper(), row.id
        assert row.statement.endswith("."), row.id
        assert ". " not in row.statement, row.id
        assert not {"should", "shall", "must"} & set(row.statement.lower().split()), row.id


def test_no_statement_is_used_twice() -> None:
    statements = Counter(row.statement for row in load().requirements.values())

    assert [statement for statement, count in statements.items() if count > 1] == []


def test_every_must_is_in_tier_one() -> None:
    assert [row.id for row in load().requirements.values() if row.level is Level.MUST and row.tier == 2] == []


def test_a_claim_alone_is_enough_for_few() -> None:
    """What only the driver says is no observation. Only promises about its answers and refusals may rest on it."""
    claims = {row.id.split(".")[0] for row in load().requirements.values() if row.observers == (Observer.DRIVER,)}

    assert claims.isdisjoint({"boot", "reboot", "stop", "start", "net", "nic", "disk", "fault", "clone", "md"})


def test_needs_joins_both_kinds_of_capability() -> None:
    assert load().get("snap.survives-migration").needs == (Capability.SNAPSHOT_DISK, Capability.MIGRATE_LIVE)
    assert load().get("disk.detach-not-deleted").needs == (Capability.VOLUME_HOTPLUG,)
    assert load().get("reboot.exactly-once").needs == ()


def test_the_steady_part_can_be_read_off_a_running_vm() -> None:
    steady = {row.id for row in load().steady}

    assert {"id.smbios-uuid-matches", "boot.memory-size", "net.mtu-path", "console.log-right-vm"} <= steady
    assert steady.isdisjoint({"reboot.exactly-once", "del.gone-everywhere"})


def test_get_suggests_the_nearest_id() -> None:
    with pytest.raises(UnknownRequirement, match=r"'reboot\.exacty-once'; did you mean reboot\.exactly-once") as caught:
        load().get("reboot.exacty-once")

    assert isinstance(caught.value, LabError)


def test_get_suggests_nothing_for_what_is_like_nothing() -> None:
    with pytest.raises(UnknownRequirement) as caught:
        load().get("zzzzzzzz")

    assert "did you mean" not in str(caught.value)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the contract's data that a test may spoil."""
    shutil.copytree(HOME / "requirements", tmp_path / "requirements")
    shutil.copy(HOME / "contract.toml", tmp_path)
    return tmp_path


def test_a_copy_reads_the_same(copy: Path) -> None:
    assert dict(read(copy).requirements) == dict(load().requirements)


ROW = """
[[requirement]]
id = "time.made-up"
statement = "Time is made up."
level = "should"
tier = 2
since = "1.0"
observers = ["guest"]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"time.made-up"', '"time.monotonic"', r"time\.toml: 'time\.monotonic' is a duplicate; time\.toml has it"),
        ('"time.made-up"', '"MadeUp"', r"time\.toml, row 5 \(MadeUp\): an id reads like"),
        ('id = "time.made-up"', "", r"row 5 \(without an id\): id is missing"),
        ('"should"', '"conditional"', r"row 5 \(time\.made-up\): a conditional requirement needs a capability"),
        ('"should"', '"must"\ncapability = "pause"', r"a must has no capability"),
        ('"should"', '"shuold"', r"unknown level 'shuold'; did you mean should\?"),
        ("tier = 2", 'tier = 2\ncapability = "pauze"', r"unknown capability 'pauze'; did you mean pause\?"),
        ("tier = 2", 'tier = 2\nalso_needs = ["pauze"]', r"unknown capability 'pauze'"),
        ("tier = 2", 'tier = 2\nalso_needs = "pause"', r"also_needs is not a list of texts"),
        ("tier = 2", "tier = 3", r"tier is 3, not 1 or 2"),
        ("tier = 2", "tier = 2\nstaedy = true", r"unknown field staedy"),
        ("tier = 2", "tier = 2\nsteady = 1", r"steady is 1, not true or false"),
        ('["guest"]', '["guset"]', r"unknown observer 'guset'; did you mean guest\?"),
        ('["guest"]', "[]", r"nobody observes it"),
        ('"Time is made up."', '" "', r"statement is not a text"),
        ("[[requirement]]", "[requirement]", r"time\.toml is not TOML"),
    ],
)
def test_a_bad_row_is_named(copy: Path, old: str, new: str, message: str) -> None:
    file = copy / "requirements" / "time.toml"
    assert old in ROW
    file.write_text(file.read_text() + ROW.replace(old, new))

    with pytest.raises(ContractError, match=message):
        read(copy)


def test_a_good_row_is_read(copy: Path) -> None:
    file = copy / "requirements" / "time.toml"
    file.write_text(file.read_text() + ROW)

    assert read(copy).get("time.made-up").area == "time"


def test_a_duplicate_in_another_area_is_named(copy: Path) -> None:
    file = copy / "requirements" / "time.toml"
    file.write_text(file.read_text() + ROW.replace("time.made-up", "boot.cpu-count"))

    with pytest.raises(ContractError, match=r"time\.toml: 'boot\.cpu-count' is a duplicate; boot\.toml has it already"):
        read(copy)


def test_a_file_without_an_area_is_an_error(copy: Path) -> None:
    (copy / "requirements" / "weather.toml").write_text(ROW)

    with pytest.raises(ContractError, match="disagree about: weather"):
        read(copy)


def test_an_area_without_a_file_is_an_error(copy: Path) -> None:
    (copy / "requirements" / "time.toml").unlink()

    with pytest.raises(ContractError, match="disagree about: time"):
        read(copy)


def test_a_provenance_needs_a_known_capability(copy: Path) -> None:
    file = copy / "contract.toml"
    file.write_text(file.read_text() + '[[provenance]]\nname = "x"\nneeds = "teleport"\nstatement = "It was beamed."\n')

    with pytest.raises(ContractError, match=r"provenance 'x': unknown capability 'teleport'"):
        read(copy)


def test_two_provenances_of_one_name_are_an_error(copy: Path) -> None:
    file = copy / "contract.toml"
    file.write_text(file.read_text() + '[[provenance]]\nname = "booted"\nneeds = ""\nstatement = "It has booted."\n')

    with pytest.raises(ContractError, match="two of the provenances have one name"):
        read(copy)
