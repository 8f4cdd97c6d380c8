"""Seeded defects: each can be planted, and the worlds' observers can see what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from conformance.contract import load
from conformance.driver import FACETS, Driver
from conformance.errors import LabFileError
from conformance.model import MigrateOptions, VmSpec
from drivers.defects import REGISTRY, apply
from drivers.wrapping import Wrapper, dress
from tests.simulated.conftest import Bench


def test_there_are_enough_of_them() -> None:
    assert len(REGISTRY) >= 25


FITTING = sorted(name for name, defect in REGISTRY.items() if defect.only in ("", "simulated"))


@pytest.mark.parametrize("name", FITTING)
def test_each_can_be_planted(bench: Bench, name: str) -> None:
    planted = apply(bench.driver, name)
    assert isinstance(planted, Driver)
    assert planted.name == "simulated"


def test_what_they_should_be_caught_by_is_in_the_contract() -> None:
    known = set(load().requirements)
    assert not {id for defect in REGISTRY.values() for id in defect.caught_by} - known


def test_an_unknown_defect_is_a_lab_file_error(bench: Bench) -> None:
    with pytest.raises(LabFileError, match="noop-reboot"):
        apply(bench.driver, "gremlin")


def test_a_defect_of_the_world_needs_the_simulated_driver(bench: Bench) -> None:
    other = dress(Wrapper, bench.driver)
    type(other).name = "other"
    with pytest.raises(LabFileError, match="needs the driver"):
        apply(other, "mig-leaves-source")


def test_a_wrapper_has_the_facets_of_what_it_wraps_and_no_others(bench: Bench) -> None:
    wrapped = dress(Wrapper, bench.driver)
    for facet in set(FACETS.values()):
        assert isinstance(wrapped, facet) == isinstance(bench.driver, facet)

    class Bare(Wrapper):
        """A driver without facets, for the other direction."""

    bare = dress(Wrapper, cast(Driver, _core_only(bench.driver)))
    assert not [facet for facet in set(FACETS.values()) if isinstance(bare, facet)]


def _core_only(driver: Driver) -> Any:
    class Core:
        name = driver.name
        option_names = driver.option_names

    return Core()


def test_two_copies_are_seen(bench: Bench) -> None:
    apply(bench.driver, "mig-leaves-source")
    vm, _, _ = bench.boot()
    bench.driver.migrate(vm, "b", MigrateOptions()).wait()
    running = [host for host in ("a", "b") if bench.observers.host(host).domains()[0].running]
    assert running == ["a", "b"]


@pytest.mark.parametrize(("defect", "kind"), [("", None), ("del-tap-leak", "interface"), ("del-disk-left", "file")])
def test_a_leak_is_residue(bench: Bench, defect: str, kind: str | None) -> None:
    before = bench.everything()
    if defect:
        apply(bench.driver, defect)
    vm, _, _ = bench.boot()
    bench.driver.delete(vm).wait()
    assert {str(entry.kind) for entry in bench.everything() - before} == ({kind} if kind else set())


def test_only_what_a_wrapper_overrides_differs(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    driver = apply(bench.driver, "one-cpu-only")
    _, spec = bench.create("plain", vcpus=2)
    vm = driver.create(VmSpec(**{**_fields(spec), "name": "wrapped", "nics": ()})).wait()
    assert driver.get(vm).vcpus == 1
    assert driver.get(vm).memory_mib == spec.memory_mib


def _fields(spec: VmSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}
