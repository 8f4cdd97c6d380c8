"""Console: it shows this VM's output, all of it that matters, and no other VM's."""

from __future__ import annotations

import pytest

from conformance.driver import Console, Driver
from conformance.machine import Machine, Machines
from conformance.model import RebootMode
from conformance.waiting import until

requirement = pytest.mark.requirement


@pytest.fixture
def console(driver: Driver) -> Console:
    return driver.facet(Console)


def shows(console: Console, machine: Machine, token: str) -> None:
    until(
        f"{token} on the console",
        lambda: token.encode() in console.console_log(machine.id),
        seconds=machine.pace.settle,
    )


@requirement("console.log-right-vm")
def test_console_log_right_vm(console: Console, machines: Machines) -> None:
    one, other = machines.boot(), machines.boot()
    for machine in (one, other):
        machine.guest.print_console(f"token-{machine.uuid}")

    shows(console, one, f"token-{one.uuid}")
    shows(console, other, f"token-{other.uuid}")
    assert f"token-{other.uuid}".encode() not in console.console_log(one.id)
    assert f"token-{one.uuid}".encode() not in console.console_log(other.id)


@requirement("console.log-after-reboot")
def test_console_log_after_reboot(driver: Driver, console: Console, machines: Machines, machine: Machine) -> None:
    for mode in RebootMode:
        before = machine.guest.boot()
        driver.reboot(machine.id, mode).wait()
        machines.wait_new_boot(machine, before)
        machine.guest.print_console(f"after-{mode}")
        shows(console, machine, f"after-{mode}")


@requirement("console.flood-safe")
def test_console_flood_safe(driver: Driver, console: Console, machine: Machine) -> None:
    before = machine.guest.boot()
    for number in range(200):
        machine.guest.print_console(f"flood-{number}-" + "x" * 1000)

    shows(console, machine, "flood-199-")
    assert machine.guest.boot().boot_id == before.boot_id
    assert driver.get(machine.id).id == machine.id
