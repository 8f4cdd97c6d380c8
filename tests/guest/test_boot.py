"""What loaders and firmware are given, as newer EFI stubs than this machine's own want it, too."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from conformance.errors import LabError
from conformance.guest import GuestImages, boot, packages
from conformance.guest.cpio import Archive
from tests.guest.vm import running, with_behind


def optional_header(image: bytes) -> int:
    return int(struct.unpack_from("<I", image, 0x3C)[0]) + 24


@pytest.fixture
def stub(images: GuestImages, tmp_path: Path) -> Path:
    """Systemd's, of the package that the image was built with."""
    (package,) = (images.folder.parent / "packages").glob("systemd-boot-efi_*.deb")
    packages.unpack([package], tmp_path / "root")
    return tmp_path / "root" / packages.STUB


def sections(image: bytes) -> dict[str, tuple[int, bytes]]:
    """Of a PE file: name to address, from where the image begins, and data."""
    optional = optional_header(image)
    count, size = struct.unpack_from("<H", image, optional - 18)[0], struct.unpack_from("<H", image, optional - 4)[0]
    found = {}
    for number in range(count):
        at = optional + size + 40 * number
        length, address, _, offset = struct.unpack_from("<IIII", image, at + 8)
        found[image[at : at + 8].rstrip(b"\0").decode()] = (address, image[offset : offset + length])
    return found


@pytest.mark.parametrize("base", [0, 0x14DF90000])
def test_sections_lie_within_the_image_wherever_the_stub_begins(stub: Path, tmp_path: Path, base: int) -> None:
    rebased = bytearray(stub.read_bytes())
    struct.pack_into("<Q", rebased, optional_header(rebased) + 24, base)
    stub.write_bytes(rebased)

    image = boot.unified(tmp_path, stub, b"the kernel", b"the initrd", "the words")

    size = struct.unpack_from("<I", image, optional_header(image) + 56)[0]
    found = sections(image)
    assert all(0 < address < size for address, _ in found.values())
    assert [found[name][1] for name in (".linux", ".initrd", ".cmdline")] == [
        b"the kernel",
        b"the initrd",
        b"the words",
    ]


def test_a_stub_that_has_grown_too_large_is_told(stub: Path, tmp_path: Path) -> None:
    grown = bytearray(stub.read_bytes())
    struct.pack_into("<I", grown, optional_header(grown) + 56, 0x30000)
    stub.write_bytes(grown)

    with pytest.raises(LabError, match="stub has grown to 196608 bytes"):
        boot.unified(tmp_path, stub, b"", b"", "")


def test_an_archive_behind_the_initrd_begins_where_the_kernel_looks_for_one() -> None:
    assert {len(boot.compress(b"x" * length)) % 4 for length in range(8)} == {0}


def test_a_kernel_takes_an_archive_behind_the_initrd(images: GuestImages, tmp_path: Path) -> None:
    """As newer EFI stubs put one there."""
    behind = Archive()
    behind.file("behind", b"x" * 5000, 0o644)
    with running(with_behind(images, behind, tmp_path), tmp_path, None) as vm:
        vm.wait_up()
        assert vm.guest.identity().image_id == images.image_id
        assert b"Decoding failed" not in vm.drain_console()


def test_what_the_agent_could_not_do_is_on_the_console(images: GuestImages, tmp_path: Path) -> None:
    """A module that the kernel refuses, for example."""
    broken = Archive()
    broken.file("lib/modules/virtio_balloon.ko", b"no module", 0o644)
    with running(with_behind(images, broken, tmp_path), tmp_path, None) as vm:
        vm.wait_up()
        assert b"hvconform: module virtio_balloon.ko: Exec format error" in vm.drain_console()
