"""The lines between the packages hold: who may import whom, read from the source of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    "conformance": ("drivers", "labs", "suites", "reports"),
    "drivers": ("pytest", "allure", "labs", "suites", "reports", "conformance.observers", "conformance.plugin"),
    "labs": ("pytest", "drivers", "suites", "reports", "conformance.plugin"),
    "suites": ("drivers", "labs", "reports", "conformance.plugin", "libvirt"),
    "reports": ("pytest", "drivers", "labs", "suites"),
    "conformance/observers": ("conformance.driver", "conformance.plugin", "conformance.machine", "pytest"),
    "conformance/contract": ("pytest", "conformance.driver", "conformance.plugin", "conformance.observers"),
}
"""Folder, and what no module in it may import."""

REPORTS_MAY = ("conformance.record", "conformance.model", "conformance.contract", "conformance.errors")
"""All that reports may import of the harness."""

EXCEPTIONS = {
    # what a run shows at its end; imported when it is asked for
    ("conformance/cli", "reports"),
    # the simulated driver is a way into the simulated world
    ("drivers/simulated", "labs.simulated.world"),
}

HYPERVISORS = ("libvirt", "qemu", "kvm", "xen", "hyperv", "hyper-v", "vsphere", "esx", "openstack", "nova")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that a file imports, with the line."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: -node.level], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def breaches(folder: str) -> list[str]:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        relative = path.relative_to(ROOT).as_posix()
        allowed = [module for place, module in EXCEPTIONS if relative.startswith(place + "/")]
        for line, name in imports(path):
            if any(within(name, module) for module in allowed):
                continue
            if any(within(name, module) for module in FORBIDDEN[folder]):
                found.append(f"{relative}:{line} imports {name}")
    return sorted(set(found))


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_package_keeps_to_its_side(folder: str) -> None:
    assert any((ROOT / folder).rglob("*.py")), "nothing was looked at"
    assert not breaches(folder)


def test_reports_know_of_the_harness_only_its_records() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / "reports").rglob("*.py"))
        for line, name in imports(path)
        if within(name, "conformance") and name != "conformance"
        if not any(within(name, module) for module in REPORTS_MAY)
    ]
    assert not found


def test_reports_are_imported_by_the_command_line_only_when_needed() -> None:
    for path in sorted((ROOT / "conformance" / "cli").rglob("*.py")):
        top = ast.parse(path.read_text(encoding="utf-8")).body
        names = [
            name
            for node in top
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        ]
        assert not any(within(name, "reports") for name in names), path


def test_suites_name_no_hypervisor() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in sorted((ROOT / "suites").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word in HYPERVISORS
        if f" {word} " in f" {line.lower()} "
    ]
    assert not found


def test_a_breach_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "labs").mkdir()
    (tmp_path / "labs" / "bad.py").write_text("from drivers.libvirt import LibvirtDriver\n")

    assert breaches("labs") == ["labs/bad.py:1 imports drivers.libvirt.LibvirtDriver"]


@pytest.mark.parametrize("folder", ["conformance", "suites", "drivers", "labs", "reports"])
def test_only_waiting_sleeps(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "conformance" / "waiting.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    ]
    assert not found
