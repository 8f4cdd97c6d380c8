"""`hvconform doctor`: what this machine lacks, and how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import click

from conformance.errors import HarnessError
from conformance.lab import labs

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
@click.pass_context
def doctor(context: click.Context) -> None:
    """Say what is missing on this machine and how to get it; exit code 1 if something needed is."""
    lacking = 0
    for ok, needed, what, how in _findings():
        lacking += needed and not ok
        word = "ok" if ok else "missing" if needed else "absent"
        click.echo(f"{word:<8} {what}" + (f"\n         get it: {how}" if how and not ok else ""))
    if lacking:
        context.exit(1)


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
