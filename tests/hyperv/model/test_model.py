"""The model of a host: bound like PowerShell binds, documented, and refusing what a host refuses."""

from __future__ import annotations

import threading

import pytest

import labs.hyperv_double.model  # noqa: F401 - registers the cmdlets
from drivers.hyperv import cmdlets
from labs.hyperv_double.engine import Command, Outcome, Session
from labs.hyperv_double.lab import LOCAL, SHARED, SWITCH, inventory
from labs.hyperv_double.model import Model, Site
from labs.hyperv_double.model.cim import matches
from labs.hyperv_double.model.cmdlets import REGISTRY
from labs.hyperv_double.model.vms import pattern
from labs.simulated.world.world import World

SESSION = Session(id="S", user="lab", auth="ntlm", tls=False)


class Host:
    """One host of a double without an endpoint."""

    def __init__(self) -> None:
        self.site = Site(World(inventory("model")), segments={(SWITCH, 0): "net1"})
        self.model = Model(self.site, "a")

    def try_run(self, *steps: tuple[str, dict[str, object]], session: Session = SESSION) -> Outcome:
        commands = [Command(name, parameters) for name, parameters in steps]
        return self.model.run(session, commands, stop=threading.Event())

    def run(self, *steps: tuple[str, dict[str, object]]) -> list[dict[str, object]]:
        outcome = self.try_run(*steps)
        assert outcome.error is None, outcome.error
        return [item for item in outcome.objects if isinstance(item, dict)]

    def error(self, *steps: tuple[str, dict[str, object]]) -> str:
        """Error id and message."""
        outcome = self.try_run(*steps)
        assert outcome.error is not None
        return f"{outcome.error.error_id} {outcome.error.message}"

    def vm(self, name: str = "vm", **more: object) -> tuple[str, dict[str, object]]:
        """A new VM; the first element of a pipeline about it."""
        (made,) = self.run(
            ("New-VM", {"Name": name, "Path": LOCAL, "NoVHD": True, "MemoryStartupBytes": 64 << 20, **more})
        )
        return ("Get-VM", {"Id": made["Id"]})


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_cmdlet_is_documented_and_takes_what_microsofts_takes(name: str) -> None:
    known = REGISTRY[name]
    assert known.handler.__doc__
    assert known.page.startswith("https://learn.microsoft.com/powershell/module/")
    if (there := cmdlets.table().get(name)) is not None:
        assert known.page == there.page
        assert not known.parameters - set(there.parameters)


def test_what_there_is_not(host: Host) -> None:
    assert host.error(("Get-VMM", {})).startswith("CommandNotFoundException")
    assert host.error(("Get-VM", {"Bogus": 1})).startswith("NamedParameterNotFound")
    assert "unable to find" in host.error(("Get-VM", {"Id": "00000000-0000-4000-8000-000000000000"}))


@pytest.mark.parametrize(
    ("text", "name", "fits"),
    [("vm*", "VM1", True), ("vm?", "vm", False), ("[vw]m", "wm", True), ("`[a`]", "[a]", True), ("[a]", "[a]", False)],
)
def test_names_are_wildcards(text: str, name: str, fits: bool) -> None:
    assert bool(pattern(text).fullmatch(name)) is fits


def test_a_wildcard_finds_more_than_one(host: Host) -> None:
    host.vm("one")
    host.vm("two")
    assert len(host.run(("Get-VM", {"Name": "*"}))) == 2


@pytest.mark.parametrize(
    ("filter", "holds"),
    [
        ("Name = 'A'", True),
        ("Name = 'b'", False),
        ("Name <> 'b' AND Size = 7", True),
        ("Name LIKE 'a%'", True),
        ("Name LIKE '%b'", False),
        ("", True),
    ],
)
def test_wql(filter: str, holds: bool) -> None:
    assert matches(filter, {"Name": "a", "Size": 7}) is holds


def test_wql_that_is_none(host: Host) -> None:
    query = ("Get-CimInstance", {"ClassName": "Win32_Process", "Filter": "Name = "})
    assert host.error(query).startswith("HRESULT 0x80041017")
    assert host.error(("Get-CimInstance", {"ClassName": "Msvm_ComputerSystem"})).startswith("HRESULT 0x80041010")


def test_paths_do_not_mind_their_case(host: Host) -> None:
    host.run(("New-VHD", {"Path": f"{LOCAL}\\Disk.vhdx", "SizeBytes": 1 << 20, "Dynamic": True}))
    (disk,) = host.run(("Get-VHD", {"Path": f"{LOCAL}\\DISK.VHDX".lower()}))
    assert disk["Path"] == f"{LOCAL}\\Disk.vhdx"


def test_disks_are_where_they_can_be(host: Host) -> None:
    assert "0x80070003" in host.error(("New-VHD", {"Path": f"{LOCAL}\\no\\d.vhdx", "SizeBytes": 1 << 20}))
    disk = {"Path": f"{LOCAL}\\d.vhdx", "SizeBytes": 1 << 20}
    host.run(("New-VHD", disk))
    assert "0x80070050" in host.error(("New-VHD", disk))
    assert "cannot be made smaller" in host.error(("Resize-VHD", {"Path": disk["Path"], "SizeBytes": 4096}))


def test_a_full_volume_takes_nothing_until_it_is_freed(host: Host) -> None:
    full = f"{SHARED}\\full.vhdx"
    host.run(("New-VHD", {"Path": full, "SizeBytes": 16 << 30, "Fixed": True}))
    assert "0x80070070" in host.error(("New-VHD", {"Path": f"{SHARED}\\d.vhdx", "SizeBytes": 1 << 20}))
    host.run(("Remove-Item", {"LiteralPath": full}))
    host.run(("New-VHD", {"Path": f"{SHARED}\\d.vhdx", "SizeBytes": 1 << 20}))


def test_vcpus_change_only_while_off(host: Host) -> None:
    vm = host.vm()
    host.run(vm, ("Set-VM", {"ProcessorCount": 2}))
    host.run(vm, ("Start-VM", {}))
    assert host.error(vm, ("Set-VM", {"ProcessorCount": 4})).startswith("InvalidState")


def test_a_vm_that_is_removed_keeps_its_disks(host: Host) -> None:
    vm = host.vm()
    host.run(("New-VHD", {"Path": f"{LOCAL}\\d.vhdx", "SizeBytes": 1 << 20}))
    host.run(vm, ("Add-VMHardDiskDrive", {"Path": f"{LOCAL}\\d.vhdx", "ControllerType": "SCSI"}))
    host.run(vm, ("Remove-VM", {"Force": True}))
    assert host.run(("Get-VHD", {"Path": f"{LOCAL}\\d.vhdx"}))


def test_layers_merge_into_what_they_stand_on(host: Host) -> None:
    """Whichever checkpoint goes first, one file is left in the end, under the name of the base."""
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        vm = host.vm(f"vm{order[0]}{order[1]}")
        path = f"{LOCAL}\\d{order[0]}{order[1]}.vhdx"
        host.run(("New-VHD", {"Path": path, "SizeBytes": 1 << 20}))
        host.run(vm, ("Add-VMHardDiskDrive", {"Path": path, "ControllerType": "SCSI"}))
        for name in "xyz":
            host.run(vm, ("Checkpoint-VM", {"SnapshotName": name}))
        ids = [row["Id"] for row in host.run(vm, ("Get-VMSnapshot", {}))]
        for at in order:
            where = ("Where-Object", {"Property": "Id", "EQ": True, "Value": ids[at]})
            host.run(vm, ("Get-VMSnapshot", {}), where, ("Remove-VMSnapshot", {}))
            assert "MergingDisks" in host.run(vm)[0]["OperationalStatus"]  # type: ignore[operator]
            host.site.world.clock.sleep(1.0)
        stem = path.rpartition("\\")[2].removesuffix(".vhdx")
        left = [row["Name"] for row in host.run(("Get-ChildItem", {"LiteralPath": LOCAL, "Filter": f"{stem}*"}))]
        assert left == [f"{stem}.vhdx"]
        assert host.run(vm, ("Get-VMHardDiskDrive", {}))[0]["Path"] == path


def test_jobs_are_their_sessions_own(host: Host) -> None:
    vm = host.vm()
    (job,) = host.run(vm, ("Start-VM", {"AsJob": True}))
    assert host.run(("Get-Job", {"Id": job["Id"]}))[0]["State"] == "Running"
    stranger = Session(id="T", user="lab", auth="ntlm", tls=False)
    refused = host.try_run(("Get-Job", {"Id": job["Id"]}), session=stranger)
    assert refused.error is not None
    host.site.world.clock.sleep(1.0)
    assert host.run(("Get-Job", {"Id": job["Id"]}))[0]["State"] == "Completed"


def test_a_job_that_is_stopped_says_so(host: Host) -> None:
    vm = host.vm()
    host.run(vm, ("Start-VM", {}))
    (job,) = host.run(vm, ("Move-VM", {"DestinationHost": "b", "AsJob": True}))
    host.run(("Stop-Job", {"Id": job["Id"]}))
    assert host.run(("Get-Job", {"Id": job["Id"]}))[0]["State"] == "Stopped"
    assert "0x800704C7" in host.error(("Receive-Job", {"Id": job["Id"]}))


def test_a_migration_needs_a_login_on_the_target(host: Host) -> None:
    vm = host.vm()
    move = (vm, ("Move-VM", {"DestinationHost": "b", "IncludeStorage": True, "DestinationStoragePath": f"{LOCAL}\\m"}))
    for knobs in host.site.knobs.values():
        knobs.migration_authentication = "CredSSP"
    assert "0x8009030E" in host.error(*move)
    delegated = Session(id="D", user="lab", auth="credssp", tls=True)
    assert host.try_run(*move, session=delegated).error is None


def test_warnings_come_with_success(host: Host) -> None:
    host.model.knobs.completes_with_warnings = True
    vm = host.vm()
    (job,) = host.run(vm, ("Start-VM", {"AsJob": True}))
    host.site.world.clock.sleep(1.0)
    outcome = host.try_run(("Receive-Job", {"Id": job["Id"]}))
    assert outcome.error is None
    assert outcome.warnings


def test_nothing_answers_while_the_service_is_down(host: Host) -> None:
    host.model.host.management_up = False
    assert "0x800706BA" in host.error(("Get-VM", {}))
    assert host.run(("Get-Service", {"Name": "vmms"}))[0]["Status"] == "Stopped"
