"""Faults on a Hyper-V host, each with the proof that it fired."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PureWindowsPath

from conformance.errors import FaultNotFired, LabError, ProbeFailed
from conformance.waiting import WaitTimeout, until
from labs.hyperv_hosts.look import cim
from labs.hyperv_hosts.session import Session

MIGRATION_PORT = "6600"
"""Where Hyper-V listens for migrations."""

_BOUND_GIB = 64
_SECONDS = 60.0
_CANARY_BYTES = 4 << 20
_SLACK_BYTES = 16 << 20
"""Left over for what the file system itself needs for a file that takes the rest."""


def end_process(session: Session, pid: int, what: str) -> None:
    """Kill one process at once; raises `FaultNotFired` when it lives on."""
    query = ("Get-CimInstance", {"ClassName": "Win32_Process", "Filter": f"ProcessId = {pid}"})
    session.ask(query, ("Invoke-CimMethod", {"MethodName": "Terminate"}))
    try:
        until(
            f"{what} to be gone",
            lambda: session.ask(query, select=("ProcessId",)),
            lambda rows: not rows,
            seconds=_SECONDS,
        )
    except WaitTimeout as error:
        raise FaultNotFired(f"{what} (process {pid}) was killed and lives on") from error


def restart_vmms(session: Session, host: str) -> None:
    """Restart the management service and wait until it answers."""
    session.ask(("Restart-Service", {"Name": "vmms", "Force": True}))
    try:
        until(
            f"the management service of {host} to answer again",
            lambda: session.ask(
                cim("Msvm_ComputerSystem", Filter="Caption = 'Hosting Computer System'"), select=("Name",)
            ),
            seconds=_SECONDS,
            ignore=(ProbeFailed,),
        )
    except WaitTimeout as error:
        raise FaultNotFired(f"the management service of {host} was restarted and does not come back") from error


@contextmanager
def cut(session: Session, addresses: Sequence[str]) -> Iterator[None]:
    """Block the migration port to and from another host, and see that it does not connect any more."""
    tag = f"hvconform-cut-{secrets.token_hex(4)}"
    rules = ((f"{tag}-out", "Outbound", "RemotePort"), (f"{tag}-in", "Inbound", "LocalPort"))
    try:
        for name, direction, port in rules:
            session.ask(
                (
                    "New-NetFirewallRule",
                    {
                        "Name": name,
                        "DisplayName": name,
                        "Direction": direction,
                        "Protocol": "TCP",
                        port: MIGRATION_PORT,
                        "RemoteAddress": list(addresses),
                        "Action": "Block",
                    },
                )
            )
        for address in addresses:
            (row,) = session.ask(
                ("Test-NetConnection", {"ComputerName": address, "Port": int(MIGRATION_PORT)}),
                select=("TcpTestSucceeded",),
            )
            if row["TcpTestSucceeded"]:
                raise FaultNotFired(f"the link to {address} was cut and still connects")
        yield
    finally:
        for name, _, _ in rules:
            with suppress(LabError):
                session.ask(("Remove-NetFirewallRule", {"Name": name}))


@contextmanager
def fill(session: Session, folder: str) -> Iterator[None]:
    """Leave no room on the volume of a storage, and prove it by a disk that cannot be made.

    Only on a volume of at most 64 GiB that is not the system's.
    """
    (volume,) = session.ask(("Get-Volume", {"FilePath": folder}), select=("Size", "SizeRemaining", "DriveLetter"))
    if int(volume["Size"]) > _BOUND_GIB << 30 or str(volume["DriveLetter"]).upper() == "C":
        raise ProbeFailed(
            f"{folder} will not be filled: it is on the system's volume, or larger than {_BOUND_GIB} GiB",
            hint="put the storage on a small volume of its own",
        )
    path, trial = f"{folder}\\hvconform-full.vhdx", f"{folder}\\hvconform-trial.vhdx"
    size = (int(volume["SizeRemaining"]) - _SLACK_BYTES) >> 20 << 20
    if size <= 0:
        raise FaultNotFired(f"{folder} is full already")
    session.ask(("New-VHD", {"Path": path, "Fixed": True, "SizeBytes": size}))
    try:
        try:
            session.ask(("New-VHD", {"Path": trial, "Fixed": True, "SizeBytes": 2 * _SLACK_BYTES}))
        except ProbeFailed:
            full = True
        else:
            full = False
            session.ask(("Remove-Item", {"LiteralPath": trial, "Force": True}))
        if not full:
            raise FaultNotFired(f"{folder} was filled and still takes data")
        yield
    finally:
        session.ask(("Remove-Item", {"LiteralPath": path, "Force": True}))


@contextmanager
def taken_away(session: Session, path: str) -> Iterator[None]:
    """Move a file aside within its folder, and put it back."""
    aside = f"{path}.hvconform-away"
    try:
        session.ask(("Rename-Item", {"LiteralPath": path, "NewName": PureWindowsPath(aside).name}))
    except ProbeFailed as error:
        raise FaultNotFired(f"{path} could not be moved aside: {error}") from None
    try:
        yield
    finally:
        session.ask(("Rename-Item", {"LiteralPath": aside, "NewName": PureWindowsPath(path).name}))


@contextmanager
def canary(session: Session, name: str, folder: str) -> Iterator[str]:
    """A VM with a disk that no driver made; yields its id. It is paused, so that everything about it stays as it is."""
    disk = f"{folder}\\{name}-canary.vhdx"
    id = ""
    try:
        session.ask(("New-VHD", {"Path": disk, "Dynamic": True, "SizeBytes": _CANARY_BYTES}))
        (made,) = session.ask(
            ("New-VM", {"Name": name, "Path": folder, "Generation": 2, "MemoryStartupBytes": 64 << 20, "NoVHD": True}),
            select=("VMId",),
        )
        id = str(made["VMId"]["Guid"] if isinstance(made["VMId"], dict) else made["VMId"])
        vm = ("Get-VM", {"Id": id})
        session.ask(vm, ("Add-VMHardDiskDrive", {"Path": disk, "ControllerType": "SCSI"}))
        session.ask(vm, ("Start-VM", {}))
        session.ask(vm, ("Suspend-VM", {}))
        yield id
    finally:
        if id:
            for step in (("Stop-VM", {"TurnOff": True, "Force": True}), ("Remove-VM", {"Force": True})):
                with suppress(LabError):
                    session.ask(("Get-VM", {"Id": id}), step)
        for path in (disk, f"{folder}\\{name}"):
            with suppress(LabError):
                session.ask(("Remove-Item", {"LiteralPath": path, "Recurse": True, "Force": True}))
