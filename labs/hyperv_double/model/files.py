"""Files and folders of a host."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import PureWindowsPath

from labs.hyperv_double.engine import ErrorRecord
from labs.hyperv_double.model import errors
from labs.hyperv_double.model.cmdlets import Call, Item, cmdlet, none
from labs.hyperv_double.model.disks import users
from labs.hyperv_double.model.hypervisor import Folder
from labs.hyperv_double.model.records import base_name, parent
from labs.simulated.world.disks import File, Layer, PlainFile
from labs.simulated.world.errors import HypervisorError

MANAGEMENT = "microsoft.powershell.management"


def _path(call: Call) -> str:
    given = call.get("LiteralPath", call.get("Path"))
    if given is None and call.items:
        return str(call.items[0]["FullName"])
    if given is None:
        raise errors.invalid(call.name, "Cannot bind argument to parameter 'Path' because it is null.")
    return str(PureWindowsPath(str(given)))


def _is_root(call: Call, path: str) -> bool:
    """Whether a path is a storage itself, which is always there."""
    storages = call.model.site.world.inventory.storages
    return any(str(storage.path).casefold() == path.casefold() for storage in storages)


def _length(file: File) -> int:
    if isinstance(file, Layer):
        return sum(len(block) for block in file.blocks.values())
    return len(file.data) if isinstance(file, PlainFile) else 0


def shown(path: str, file: File) -> Item:
    return Item(
        "File",
        path,
        {
            "FullName": path,
            "Name": base_name(path),
            "PSIsContainer": isinstance(file, Folder),
            "Length": None if isinstance(file, Folder) else _length(file),
        },
    )


def _existing(call: Call) -> tuple[str, File]:
    path = call.model.site.true_path(call.model.host, _path(call))
    file = call.model.host.files.get(path)
    if file is None:
        raise errors.no_such_path(call.name, path)
    return path, file


@cmdlet("Test-Path", "LiteralPath", "Path", module=MANAGEMENT)
def test_path(call: Call) -> Iterable[Item]:
    """Whether there is something at a path."""
    path = _path(call)
    there = _is_root(call, path) or call.model.site.file(call.model.host, path) is not None
    return [Item("Boolean", there, {"Value": there})]


@cmdlet("Get-Item", "LiteralPath", "Path", module=MANAGEMENT)
def get_item(call: Call) -> Iterable[Item]:
    """A file or folder."""
    return [shown(*_existing(call))]


@cmdlet("Get-ChildItem", "LiteralPath", "Path", "Filter", "Recurse", "File", "Directory", module=MANAGEMENT)
def get_child_item(call: Call) -> Iterable[Item]:
    """What is in a folder, deep with ``-Recurse``. A filter is the file system's own: ``*`` and ``?``."""
    folder = _path(call)
    files = call.model.host.files
    if not _is_root(call, folder) and call.model.site.file(call.model.host, folder) is None:
        raise errors.no_such_path(call.name, folder)
    for path in files.paths():
        inside = parent(path).casefold()
        deep = call.switch("Recurse") and inside.startswith(folder.casefold() + "\\")
        if inside != folder.casefold() and not deep:
            continue
        if call.has("Filter") and not fnmatch.fnmatchcase(base_name(path).casefold(), call.text("Filter").casefold()):
            continue
        file = files.get(path)
        if file is not None and not (call.switch("File") and isinstance(file, Folder)):
            yield shown(path, file)


@cmdlet("New-Item", "Path", "ItemType", "Value", module=MANAGEMENT)
def new_item(call: Call) -> Iterable[Item]:
    """A folder with all above it, or a file."""
    host, path = call.model.host, _path(call)
    space = call.model.site.space_of(host, path)
    if host.files.get(path) is not None and not call.switch("Force"):
        raise errors.CmdletError(
            ErrorRecord(
                f"An item with the specified name {path} already exists.",
                "DirectoryExist,Microsoft.PowerShell.Commands.NewItemCommand",
                "ResourceExists",
                0x80131620,
                "System.IO.IOException",
            )
        )
    space.claim()
    made: File = Folder() if call.text("ItemType").lower() == "directory" else PlainFile(call.text("Value").encode())
    host.files.put(path, made)
    return [shown(path, made)]


@cmdlet("Remove-Item", "LiteralPath", "Path", "Recurse", module=MANAGEMENT)
def remove_item(call: Call) -> Iterable[Item]:
    """Removes a file, or a folder with all in it; a disk that a machine has open stays, and says so."""
    host, site = call.model.host, call.model.site
    path, _ = _existing(call)
    below = [known for known in host.files.paths() if known.casefold().startswith(path.casefold() + "\\")]
    if below and not call.switch("Recurse"):
        raise errors.invalid(call.name, f"The directory at {path} is not empty.")
    for each in (*below, path):
        if users(site, host, each):
            raise HypervisorError("in-use", f"Cannot remove item {each}: it is being used by another process")
    for each in (*below, path):
        host.files.remove(each)
        if (space := site.fillers.pop(each, None)) is not None:
            space.full = False
    return none()


@cmdlet("Rename-Item", "LiteralPath", "NewName", module=MANAGEMENT)
def rename_item(call: Call) -> Iterable[Item]:
    """Another name in the same folder."""
    host = call.model.host
    path, file = _existing(call)
    host.files.remove(path)
    host.files.put(str(PureWindowsPath(parent(path), str(call.need("NewName")))), file)
    return none()


@cmdlet("Set-Content", "LiteralPath", "Path", "Value", "Encoding", module=MANAGEMENT)
def set_content(call: Call) -> Iterable[Item]:
    """Writes a text file anew."""
    host, path = call.model.host, _path(call)
    call.model.site.space_of(host, path).claim()
    host.files.put(path, PlainFile(call.text("Value").encode()))
    return none()


@cmdlet("Get-Content", "LiteralPath", "Path", "Raw", "Encoding", module=MANAGEMENT)
def get_content(call: Call) -> Iterable[Item]:
    """The text of a file; the model gives it whole."""
    path, file = _existing(call)
    if not isinstance(file, PlainFile):
        raise errors.invalid(call.name, f"{path} is no text.")
    return [Item("Text", file.data.decode("utf-8", "replace"), {})]


@cmdlet("Get-FileHash", "LiteralPath", "Path", "Algorithm", module="microsoft.powershell.utility")
def get_file_hash(call: Call) -> Iterable[Item]:
    """SHA-256 of a file's bytes."""
    path, file = _existing(call)
    return [Item("Hash", path, {"Algorithm": "SHA256", "Hash": file.sha256().upper(), "Path": path})]
