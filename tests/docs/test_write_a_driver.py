"""The page "Write a driver": its code is the example's, and the example is a driver that works."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from conformance.driver import Driver, Pause, Snapshots, disagreements
from conformance.errors import Exists, InvalidRequest, InvalidState, NotFound, QuotaExceeded, Timeout, Unsupported
from conformance.lab.inventory import LabInventory, load
from conformance.model import Firmware, NicSpec, PowerState, RebootMode, StopMode, VmSpec
from conformance.record import ItemFinished, Verdict, read
from labs.simulated import world

NUMBERS = itertools.count(16)
DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "minimal_driver.py"
LAB = DOCS / "examples" / "minimal-lab.toml"


def snippets(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def test_every_snippet_is_verbatim_from_the_example() -> None:
    code = EXAMPLE.read_text()
    found = snippets((DOCS / "write-a-driver.md").read_text())

    assert len(found) >= 8
    assert [snippet for snippet in found if snippet not in code] == []


def test_the_target_is_verbatim_from_the_lab_file() -> None:
    (_, target) = snippets((DOCS / "write-a-driver.md").read_text(), "toml")

    assert target.startswith("[[target]]")
    assert target in LAB.read_text()


def test_a_snippet_that_differs_would_be_seen() -> None:
    (snippet,) = snippets("text\n\n```python\ndef f() -> None:\n```\n")

    assert snippet not in EXAMPLE.read_text()


@pytest.fixture
def lab() -> Iterator[LabInventory]:
    inventory = load(LAB)
    yield inventory
    world.forget(inventory.name)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_driver", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "minimal_driver", loaded)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def driver(module: ModuleType, lab: LabInventory) -> Driver:
    made: Driver = module.MinimalDriver.connect(lab, lab.target("minimal"))
    return made


def vm(name: str = "one", **changes: object) -> VmSpec:
    nics = (NicSpec("net1", f"52:54:00:00:00:{next(NUMBERS):02x}"),)
    return VmSpec(**{"name": name, "image": "guest", "nics": nics, **changes})  # type: ignore[arg-type]


def boot_id(lab: LabInventory, id: str) -> str:
    """What the guest would say, which is not what the driver says."""
    process = world.get(lab).hosts["a"].domains[id].process
    assert process is not None
    assert process.guest is not None
    return process.guest.memory.boot_id


def test_a_whole_life(driver: Driver, lab: LabInventory) -> None:
    clock = world.get(lab).clock
    id = driver.create(vm()).wait()
    assert driver.get(id).power is PowerState.STOPPED
    driver.start(id).wait()
    clock.sleep(10)
    assert driver.get(id).power is PowerState.RUNNING
    assert len(driver.addresses(id)) == 1

    first = boot_id(lab, id)
    driver.reboot(id, RebootMode.SOFT).wait()
    clock.sleep(10)
    second = boot_id(lab, id)
    driver.reboot(id, RebootMode.HARD).wait()
    clock.sleep(10)
    assert len({first, second, boot_id(lab, id)}) == 3

    pause = driver.facet(Pause)
    pause.pause(id).wait()
    assert driver.get(id).power is PowerState.PAUSED
    pause.resume(id).wait()
    driver.stop(id, StopMode.GRACEFUL).wait()
    assert driver.get(id).power is PowerState.STOPPED
    driver.delete(id).wait()
    assert list(driver.list()) == []
    assert not world.get(lab).hosts["a"].domains


def test_it_declares_what_it_implements(driver: Driver) -> None:
    assert list(disagreements(driver)) == []
    with pytest.raises(Unsupported):
        driver.facet(Snapshots)
    with pytest.raises(Unsupported):
        driver.create(vm(firmware=Firmware.UEFI))


def test_its_errors_have_types(driver: Driver) -> None:
    id = driver.create(vm()).wait()

    with pytest.raises(Exists):
        driver.create(vm())
    with pytest.raises(InvalidRequest, match="no network 'red'"):
        driver.create(vm("two", nics=(NicSpec("red", "52:54:00:00:00:02"),)))
    with pytest.raises(InvalidRequest, match="no image 'nothing'"):
        driver.create(vm("two", image="nothing"))
    with pytest.raises(NotFound):
        driver.get("nobody")
    with pytest.raises(NotFound):
        driver.find("on")
    with pytest.raises(InvalidState) as refusal:
        driver.reboot(id)
    assert (refusal.value.current, refusal.value.allowed) == ("stopped", ("running",))
    big = driver.create(vm("big", memory_mib=8192)).wait()
    with pytest.raises(QuotaExceeded) as full:
        driver.start(big).wait()
    assert full.value.code == "no-memory"


def test_a_guest_that_does_not_follow_ends_in_a_timeout(driver: Driver, lab: LabInventory) -> None:
    id = driver.create(vm()).wait()
    driver.start(id).wait()
    world.get(lab).clock.sleep(10)
    process = world.get(lab).hosts["a"].domains[id].process
    assert process is not None
    assert process.guest is not None
    process.guest.memory.ignore_acpi = True

    with pytest.raises(Timeout):
        driver.stop(id, StopMode.GRACEFUL).wait()
    assert driver.get(id).power is PowerState.RUNNING
    driver.stop(id, StopMode.FORCE).wait()
    assert driver.get(id).power is PowerState.STOPPED


def test_it_touches_no_foreign_vm(driver: Driver, lab: LabInventory) -> None:
    id = driver.create(vm()).wait()
    world.get(lab).hosts["a"].domains[id].config.owner = ""

    driver.reclaim("one")

    assert list(driver.list()) == []
    assert list(world.get(lab).hosts["a"].domains) == [id]


def test_reclaim_removes_what_has_exactly_this_name(driver: Driver, lab: LabInventory) -> None:
    kept = driver.create(vm("one-more")).wait()
    driver.start(driver.create(vm("one")).wait()).wait()

    driver.reclaim("one")
    driver.reclaim("one")

    assert list(driver.list()) == [kept]
    left = [path for path in world.get(lab).hosts["a"].files.paths() if kept not in path]
    assert left == sorted(str(image.path) for image in lab.images)


def entry_points(page: str) -> str:
    """The page's entry point, as an installed package has it."""
    (block, _) = snippets(page, "toml")
    ((group, points),) = tomllib.loads(block)["project"]["entry-points"].items()
    return f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH that holds the example as if it had been installed."""
    shutil.copy(EXAMPLE, tmp_path)
    metadata = tmp_path / "minimal_driver-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: minimal-driver\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points((DOCS / "write-a-driver.md").read_text()))
    return tmp_path


def verdicts(installed: Path, out: Path, *options: str) -> Counter[Verdict]:
    """Run the suites on the example in a process of its own, and count what its record says."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "suites", "--lab", str(LAB), "--target", "minimal"]
    command += ["--out", str(out), "-p", "no:cacheprovider", "-q", *options]
    paths = os.pathsep.join((str(installed), str(DOCS.parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "HVCONFORM_STATE": str(out / "state")}
    ran = subprocess.run(
        command, env=environment, cwd=installed, capture_output=True, text=True, timeout=300, check=False
    )
    finished = [event for event in read(out / "record") if isinstance(event, ItemFinished)]
    counted = Counter(event.verdict for event in finished)
    problems = [f"{event.requirement}: {event.message}" for event in finished if event.verdict in BAD]
    assert not problems, "\n".join(problems)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return counted


BAD = {Verdict.FAIL, Verdict.FLAKY, Verdict.LAB_ERROR, Verdict.NOT_RUN}


def test_the_suites_pass_on_the_example(installed: Path, tmp_path: Path) -> None:
    areas = [f"--area={area}" for area in ("boot", "reboot", "pause", "error", "delete")]
    counted = verdicts(installed, tmp_path / "out", *areas)

    assert counted[Verdict.PASS] >= 40
    assert counted[Verdict.NOT_CLAIMED] >= 5


def test_the_suites_fail_on_the_example_with_a_defect(installed: Path, tmp_path: Path) -> None:
    """Control: the same run sees a reboot that does nothing."""
    driver = installed / EXAMPLE.name
    code = driver.read_text()
    assert code.count("self._hypervisor.reset(domain)") == 1
    driver.write_text(code.replace("self._hypervisor.reset(domain)", "pass"))

    with pytest.raises(AssertionError, match=r"reboot\.hard-is-immediate"):
        verdicts(installed, tmp_path / "out", "--requirement", "reboot.hard-is-immediate")
