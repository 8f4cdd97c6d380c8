"""The image builder: the same bytes each time, at most once, and clear words when it cannot."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from conformance.errors import LabError, MissingRequirement
from conformance.guest import DISK_SIZE, FORMATS, SCRATCH_OFFSET, SCRATCH_SIZE, GuestImages, build, packages
from conformance.guest.boot import uncompress
from conformance.guest.cpio import Archive
from conformance.guest.identifiers import fix_vmdk


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _convert_all(images: GuestImages) -> None:
    for disk_format in FORMATS:
        images.disk("bios", disk_format)
        images.disk("uefi", disk_format)


@pytest.mark.lab
def test_two_builds_are_the_same_bytes(images: GuestImages, tmp_path: Path) -> None:
    caches = [tmp_path / "one", tmp_path / "another-with-a-longer-name"]
    for cache in caches:
        shutil.copytree(images.folder.parent / "packages", cache / "guest" / "packages")
    first, second = (build(cache) for cache in caches)
    for built in (first, second):
        _convert_all(built)
    assert first.image_id == second.image_id == images.image_id
    assert _hashes(first.folder) == _hashes(second.folder)
    assert len(_hashes(first.folder)) == 12


def test_a_vmdk_is_the_same_whatever_its_content_id_was(tmp_path: Path) -> None:
    """QEMU writes the id over another one, whose text may have been longer."""
    head = b"KDMV" + bytes(24) + struct.pack("<QQ", 1, 2) + bytes(512 - 44)
    text = b"# Disk DescriptorFile\nCID=%s\nparentCID=ffffffff\n"
    fixed = set()
    for number, descriptor in enumerate([text % b"1234abcd", text % b"12", text % b"1234abc" + b"\0\n"]):
        disk = tmp_path / f"{number}.vmdk"
        disk.write_bytes(head + descriptor.ljust(1024, b"\0") + b"data")
        fix_vmdk(disk)
        fixed.add(disk.read_bytes())

    assert fixed == {head + (text % b"48564301").ljust(1024, b"\0") + b"data"}


@pytest.mark.lab
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("disk_format", FORMATS)
def test_every_format_holds_the_same_disk(images: GuestImages, firmware: str, disk_format: str) -> None:
    path = images.disk(firmware, disk_format)  # type: ignore[arg-type]
    raw = images.disk(firmware, "raw")  # type: ignore[arg-type]
    if disk_format != "raw" and disk_format != "vmdk":  # qemu-img check knows no VMDK of this kind to repair
        subprocess.run(["qemu-img", "check", "-q", "-f", disk_format, path], check=True)
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", disk_format, raw, path], check=True)
    assert raw.stat().st_size == DISK_SIZE


@pytest.mark.lab
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_host_unpacks_no_clusters_of_a_qcow2(images: GuestImages, firmware: str) -> None:
    path = images.disk(firmware, "qcow2")  # type: ignore[arg-type]
    printed = subprocess.run(["qemu-img", "map", "--output=json", path], check=True, capture_output=True).stdout
    extents = json.loads(printed)
    assert sum(extent["length"] for extent in extents if extent["data"]) > SCRATCH_SIZE // 2
    assert all("offset" in extent for extent in extents if extent["data"])  # a compressed cluster has none


@pytest.mark.lab
def test_the_scratch_range_is_empty(images: GuestImages) -> None:
    for firmware in ("bios", "uefi"):
        with images.disk(firmware, "raw").open("rb") as disk:
            disk.seek(SCRATCH_OFFSET)
            assert disk.read(SCRATCH_SIZE) == bytes(SCRATCH_SIZE)


@pytest.mark.lab
def test_a_second_call_builds_and_downloads_nothing(images: GuestImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a second call must neither download nor unpack")

    monkeypatch.setattr(packages, "fetch", refuse)
    monkeypatch.setattr(packages, "unpack", refuse)
    said: list[str] = []
    assert build(images.folder.parent.parent, said.append).image_id == images.image_id
    assert said == []


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == "mcopy" else f"/usr/bin/{name}")
    with pytest.raises(MissingRequirement, match=r"'mcopy', of Debian's package mtools") as raised:
        build(tmp_path)
    assert "apt-get install" in raised.value.hint


def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object, **__: object) -> bytes:
        raise LabError("Temporary failure resolving 'mirror.example.org'")

    monkeypatch.setattr(packages, "run", fails)
    with pytest.raises(LabError, match="cannot be downloaded") as raised:
        packages.fetch(["busybox-static"], tmp_path)
    assert "network" in raised.value.hint


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(LabError, match="bzImage"):
        uncompress(bytes(4096))


def test_an_archive_is_read_by_cpio(tmp_path: Path) -> None:
    archive = Archive()
    archive.folder("etc")
    archive.file("etc/hello", b"hello\n", 0o755)
    archive.link("etc/link", "hello")
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed; the guest's kernel reads the archive in the other tests")
    subprocess.run(["cpio", "-i", "--quiet"], input=archive.build(), cwd=tmp_path, check=True)
    assert (tmp_path / "etc/link").read_bytes() == b"hello\n"
    assert (tmp_path / "etc/hello").stat().st_mode & 0o777 == 0o755
