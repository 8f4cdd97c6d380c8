"""What the process does that starts a run: labs, the plan, crashed items, reports and the exit code."""

from __future__ import annotations

import platform
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from conformance.contract import Contract
from conformance.errors import LAB_BROKEN, DriverError, HarnessError, LabBusy, LabError
from conformance.lab import labs, leases, ledger, sweep
from conformance.lab.inventory import LabInventory
from conformance.lab.lab import Observers
from conformance.paths import make_run_folder
from conformance.plugin import plan, reporting
from conformance.plugin.options import Settings
from conformance.plugin.plan import Cell
from conformance.plugin.scheduling import GroupScheduling
from conformance.plugin.worker import lease_keys, record_folder, target_seen
from conformance.record import (
    ItemFinished,
    ItemPlanned,
    Recorder,
    RunFinished,
    RunStarted,
    Verdict,
    read,
)

_USERINFO = re.compile(r"//[^/@\s]+@")
"""Name and password in a URL, such as that of a lease coordinator."""

_PACKAGES = ("hvconform", "pytest", "pytest-xdist", "allure-pytest", "tooz", "libvirt-python")


def _results() -> Path:
    try:
        return make_run_folder(Path("results"))
    except LabError as error:
        raise pytest.UsageError(f"{error}\n  try: {error.hint}") from None


class Controller:
    """A pytest plugin of the process that starts the run, whether or not it also runs the items."""

    def __init__(self, config: pytest.Config, settings: Settings, contract: Contract) -> None:
        self.run = secrets.token_hex(4)
        self.settings = settings
        self.contract = contract
        self.out = settings.out or _results()
        self.pool: list[LabInventory] = []
        self.recorder = self._recorder(config)
        self._config = config
        self._labs = labs.Pool(settings.labs)
        self._cells: dict[str, Cell] = {}
        self._written: list[Path] = []
        self._problem = ""

    def _recorder(self, config: pytest.Config) -> Recorder:
        folder = record_folder(self.out)
        if any(folder.glob("*.jsonl")):
            raise pytest.UsageError(f"{self.out} holds a run already: give another --out")
        try:
            recorder = Recorder(folder, "controller")
            recorder.write(self._started(config))
        except OSError as error:
            raise pytest.UsageError(f"--out {self.out} cannot be written: {error}") from None
        return recorder

    def _started(self, config: pytest.Config) -> RunStarted:
        return RunStarted(
            run=self.run,
            hvconform=version("hvconform"),
            contract=self.contract.version,
            arguments=[_USERINFO.sub("//***@", str(argument)) for argument in config.invocation_params.args],
            python=platform.python_version(),
            machine=f"{platform.system()} {platform.release()} {platform.machine()}",
            packages=dict(_packages()),
        )

    # before

    def open(self) -> None:
        """Bring the labs up, see that they are fit and targets answer; raises `HarnessError` or `pytest.UsageError`."""
        workers = len(self._config.getoption("tx", None) or []) or 1
        self._labs.open(workers, self._say)
        self.pool = self._labs.labs
        if len(self.pool) < workers:
            raise pytest.UsageError(
                f"-n {workers} needs {workers} labs, one a worker, and --lab gives {len(self.pool)}\n"
                f"  try: -n {len(self.pool)}"
            )
        lab = self.pool[0]
        ledger.see_writable()
        slugs = self.targets(lab)
        for slug in slugs:
            labs.checked_class(lab.target(slug))
        for slug in slugs:
            target = lab.target(slug)
            driver = labs.connect(lab, target)
            try:
                self.recorder.write(target_seen(lab, target, driver))
            finally:
                driver.close()
        self._see_fit()

    def _see_fit(self) -> None:
        """Raise `LabError` with all that makes a lab unfit, or its leasing: one message, not one a test."""
        url = self.settings.lease_url or leases.default_url()
        for lab, key in zip(self.pool, lease_keys(self.pool), strict=True):
            described = lab in self._labs.described
            if not described and url.startswith("file:"):
                continue
            try:
                lease = leases.acquire([lab], [key], url=url, who=f"hvc-{self.run}-controller", wait_s=0)
            except LabBusy:
                continue  # another run looked, and may be breaking it on purpose right now
            try:
                problems = _problems(lab) if described else []
            finally:
                lease.release()
            if problems:
                raise LabError(
                    f"lab {lab.name} is not fit to judge a driver:" + "".join(f"\n  {line}" for line in problems),
                    hint="mend what is named, or correct the lab file; docs/lab-file.md says what each key is for",
                )

    def abandon(self) -> None:
        """Give up a run that has not begun: labs that came up by half go down, and the record ends."""
        if not self.settings.keep_lab:
            self._labs.close(self._say)
        self.recorder.close()

    def targets(self, lab: LabInventory) -> list[str]:
        """The slugs that were asked for; raises `pytest.UsageError` for an unknown one."""
        return chosen_targets(self.settings, lab)

    def _say(self, line: str) -> None:
        reporter = self._config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(line)

    # xdist

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["hvconform"] = {
            "run": self.run,
            "out": str(self.out.absolute()),
            "labs": [lab.model_dump_json(by_alias=True) for lab in self.pool],
        }

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> Any:
        return GroupScheduling(config, lambda: {item: cell.group for item, cell in self._cells.items()})

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        if not self._cells:
            self.planned(plan.read(record_folder(self.out), node.gateway.id))

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str) -> None:
        cell = self._cells.get(crashitem)
        if cell is None:
            return
        message = "the worker process died while it ran this test"
        self.recorder.write(
            ItemFinished(
                item=cell.item,
                requirement=cell.requirement,
                target=cell.target,
                provenance=cell.provenance,
                verdict=Verdict.LAB_ERROR,
                seconds=0.0,
                message=message,
                detail="",
                refusal="",
            )
        )

    def planned(self, cells: Iterable[Cell]) -> None:
        """Put the plan into the record."""
        for cell in cells:
            self._cells[cell.item] = cell
            self.recorder.write(
                ItemPlanned(
                    item=cell.item, requirement=cell.requirement, target=cell.target, provenance=cell.provenance
                )
            )

    # after

    def finish(self, exit_code: int) -> int:
        """Take the labs down, write the record's end and the reports; returns the run's exit code."""
        code = exit_code if exit_code not in (0, 1, 5) else self._judged(exit_code)
        try:
            self._clean_up()
        except HarnessError as error:
            self._problem = explained(error)
            code = code or LAB_BROKEN
        try:
            self.recorder.write(RunFinished(exit_code=code))
            self.recorder.close()
            allure = self._config.getoption("allure_report_dir", None)
            self._written = reporting.write(self.out, Path(allure) if allure else None)
        except LabError as error:
            self._problem = str(error)
            code = code or LAB_BROKEN
        except OSError as error:
            self._problem = (
                f"the reports cannot be written: {error}\n  try: free some space, hvconform report {self.out}"
            )
            code = code or LAB_BROKEN
        return code

    def _clean_up(self) -> None:
        """Remove what killed workers left, and the labs that are ours; raises `HarnessError`."""
        ours = [] if self.settings.keep_lab else self._labs.ours
        try:
            for lab in self.pool:
                if lab.name not in ours:
                    problems = sweep.sweep(lab, self._say, run=self.run).problems
                    if problems:
                        raise LabError(f"left on {lab.name}: {'; '.join(problems)}", hint="hvconform sweep")
        finally:
            if not self.settings.keep_lab:
                self._labs.close(self._say)
            for name in ours:
                sweep.forget(name)

    def _judged(self, exit_code: int) -> int:
        verdicts = Counter(event.verdict for event in read(record_folder(self.out)) if isinstance(event, ItemFinished))
        if verdicts[Verdict.FAIL] or verdicts[Verdict.FLAKY]:
            return 1
        if verdicts[Verdict.LAB_ERROR]:
            return LAB_BROKEN
        return exit_code

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._written:
            terminalreporter.write(reporting.summary(self.out))
        if self._problem:
            terminalreporter.write_line(f"hvconform: {self._problem}", red=True)


def _problems(lab: LabInventory) -> list[str]:
    observers = labs.lab_kind(lab.kind).observe(lab)
    try:
        problems = list(observers.health()) or list(_images(lab, observers))
    finally:
        observers.close()
    return [problem.replace("\n  try: ", "; try: ") for problem in problems]


def _images(lab: LabInventory, observers: Observers) -> Iterable[str]:
    """Images that are not what the lab file says: a driver would be blamed for each of them."""

    def look(host: str) -> list[str]:
        probe, found = observers.host(host), []
        for image in lab.images:
            files = [path for path in (image.path, image.kernel, image.initrd) if path is not None]
            lost = [path for path in dict.fromkeys(files) if not probe.exists(str(path))]
            found += [f"host {host}: there is no {path}, of the image {image.name}" for path in lost]
            if image.path not in lost and probe.file_hash(str(image.path)) != image.sha256:
                found.append(f"host {host}: {image.path} has another sha256 than image {image.name} in the lab file")
        return found

    with ThreadPoolExecutor(len(lab.hosts)) as pool:
        return [problem for found in pool.map(look, [host.name for host in lab.hosts]) for problem in found]


def chosen_targets(settings: Settings, lab: LabInventory) -> list[str]:
    """The slugs that were asked for, in the lab's order."""
    known = [target.slug for target in lab.targets]
    for slug in settings.targets:
        if slug not in known:
            raise pytest.UsageError(f"--target: lab {lab.name} has no target {slug!r}{labs.near(slug, known)}")
    return [slug for slug in known if not settings.targets or slug in settings.targets]


def explained(error: HarnessError) -> str:
    """An error that stops a run before it began, for the person at the terminal."""
    return f"{type(error).__name__}: {error}" if isinstance(error, DriverError) else str(error)


def _packages() -> Iterable[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
