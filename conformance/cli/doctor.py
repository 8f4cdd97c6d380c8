"""`hvconform doctor`: what this machine lacks, and how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import click

from conformance.driver import Diagnosis
from conformance.errors import DriverError, HarnessError, LabError, LabFileError
from conformance.lab import labs
from conformance.lab.inventory import LabInventory, Target

_PACKAGES = {
    "pytest": True,
    "pytest-xdist": True,
    "allure-pytest": True,
    "tooz": True,
    "scapy": True,
    "tempest": True,
    "libvirt-python": False,
    "pywinrm": False,
}
"""Python packages; False for those that only some drivers need."""


@click.command()
@click.option("--lab", "file", metavar="FILE", help="Look at the hosts of this lab instead of at this machine.")
@click.option("--target", "slug", metavar="SLUG", help="Only this target of the lab.")
@click.pass_context
def doctor(context: click.Context, file: str | None, slug: str | None) -> None:
    """Say what is missing, on this machine or a lab's hosts, and how to get it; exit code 1 if something needed is."""
    if slug and not file:
        raise click.UsageError("--target needs --lab")
    lacking = 0
    for ok, needed, what, how in _findings() if file is None else lab_findings(file, slug):
        lacking += needed and not ok
        word = "ok" if ok else "missing" if needed else "absent"
        click.echo(f"{word:<8} {what}" + (f"\n         get it: {how}" if how and not ok else ""))
    if lacking:
        context.exit(1)


def lab_findings(name: str, slug: str | None) -> Iterator[tuple[bool, bool, str, str]]:
    """The same for a lab: its observers, and each target by its own driver."""
    pool = labs.Pool([name])
    try:
        pool.open(1, lambda _: None)
        (lab,) = pool.labs
        chosen = [target for target in lab.targets if slug in (None, target.slug)]
        if not chosen:
            raise LabFileError(
                f"lab {lab.name} has no target {slug!r}{labs.near(str(slug), [each.slug for each in lab.targets])}"
            )
        yield from _observed(lab)
        for target in chosen:
            yield from _diagnosed(lab, target)
    finally:
        pool.close(lambda _: None)


def _observed(lab: LabInventory) -> Iterator[tuple[bool, bool, str, str]]:
    try:
        observers = labs.lab_kind(lab.kind).observe(lab)
        try:
            wrong = observers.health()
        finally:
            observers.close()
    except LabError as error:
        yield False, True, f"observers of {lab.name}: {error.message}", error.hint
        return
    for sentence in wrong:
        yield False, True, f"observers of {lab.name}: {sentence}", ""
    if not wrong:
        yield True, True, f"observers of {lab.name}: {len(lab.hosts)} hosts, {len(lab.networks)} networks", ""


def _diagnosed(lab: LabInventory, target: Target) -> Iterator[tuple[bool, bool, str, str]]:
    try:
        driver = labs.connect(lab, target)
    except LabError as error:
        yield False, True, f"target {target.slug}: {error.message}", error.hint
        return
    except DriverError as error:
        yield False, True, f"target {target.slug}: {type(error).__name__}: {error}", ""
        return
    try:
        facts = driver.facts()
        yield True, True, f"target {target.slug}: {facts.hypervisor} {facts.version} {facts.double}".rstrip(), ""
        for finding in driver.diagnose() if isinstance(driver, Diagnosis) else ():
            yield finding.ok, finding.needed, f"target {target.slug}: {finding.what}", finding.how
        offered = ", ".join(sorted(driver.capabilities())) or "nothing"
        yield True, True, f"target {target.slug} offers {offered}", ""
    except DriverError as error:
        yield False, True, f"target {target.slug}: {type(error).__name__}: {error}", ""
    finally:
        driver.close()


def _findings() -> Iterator[tuple[bool, bool, str, str]]:
    """(it is there, it is needed, what, how to get it)."""
    for name, needed in _PACKAGES.items():
        try:
            yield True, needed, f"{name} {version(name)}", ""
        except PackageNotFoundError:
            extra = {"libvirt-python": "hvconform[libvirt]", "pywinrm": "hvconform[hyperv]"}.get(name, "hvconform")
            yield False, needed, name, f"pip install '{extra}'"
    root = os.geteuid() == 0
    sudo = "and sudo is there" if shutil.which("sudo") else "and there is no sudo"
    yield root, False, "root" if root else f"root: not now, {sudo}", "sudo -E hvconform ..."
    yield _kvm()
    node = shutil.which("node")
    yield node is not None, False, f"node {node or ''}, for the Allure report", "apt install nodejs npm"
    for name in labs.kind_names():
        try:
            missing = labs.lab_kind(name).missing()
        except HarnessError as error:
            yield False, True, f"lab {name}: {error}", ""
            continue
        if not missing:
            yield True, True, f"lab {name}", ""
        for what, how in missing:
            yield False, True, f"lab {name}: {what}", how


def _kvm() -> tuple[bool, bool, str, str]:
    if not os.path.exists("/dev/kvm"):  # noqa: PTH110
        return (
            False,
            False,
            "/dev/kvm: guests run under TCG, slower",
            "enable virtualization, nested where this is a VM",
        )
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False, False, "/dev/kvm: no permission", "adduser $USER kvm, or run as root"
    # only a guest that comes up proves it, and the kvm lab tries one before it relies on it
    return True, False, "/dev/kvm is there; whether it works is found out by the kvm lab", ""
