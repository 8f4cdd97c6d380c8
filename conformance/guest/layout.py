"""Bytes of the guest's disks: where everything lies, and how the disks are put together without a mount or root."""

from __future__ import annotations

import os
from pathlib import Path

from conformance.guest import identifiers
from conformance.guest.packages import MBR, run

MIB = 1 << 20
DISK_SIZE = 64 * MIB
BOOT_OFFSET = 1 * MIB  # FAT16: syslinux with kernel and initrd, or the ESP with the unified kernel image
BOOT_SIZE = 32 * MIB
STATE_OFFSET = 33 * MIB  # agent/state.c
STATE_SIZE = 1 * MIB
SCRATCH_OFFSET = 40 * MIB
SCRATCH_SIZE = 16 * MIB
HEADER_MAGIC = b"HVCONFORM-IMAGE\n"

_EPOCH = {"SOURCE_DATE_EPOCH": "946684800", "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
_VOLUME_ID = "48564301"
_SECTOR = 512
_GUID = "48564300-0000-4000-8000-00000000000{}"
_NOT_A_FILE_SYSTEM = "DA"
_LINUX_RESERVED = "8DA63339-0007-60C0-C436-083AC8230908"


def _sectors(size: int) -> int:
    return size // _SECTOR


def _blank(path: Path, image_id: str) -> None:
    with path.open("wb") as disk:
        disk.truncate(DISK_SIZE)
        disk.seek(STATE_OFFSET)
        disk.write(HEADER_MAGIC + image_id.encode() + b"\n")


def _format(path: Path) -> str:
    """Makes the FAT file system; returns mtools' name for it."""
    run(
        "mkfs.fat", "-F", "16", "-i", _VOLUME_ID, "-n", "HVCONFORM", "--invariant",
        "--offset", str(_sectors(BOOT_OFFSET)), path, str(BOOT_SIZE // 1024), env=_EPOCH,
    )  # fmt: skip
    return f"{path}@@{BOOT_OFFSET}"


def _copy(drive: str, name: str, data: bytes, scratch: Path) -> None:
    source = scratch / name.rsplit("/", 1)[-1]
    source.write_bytes(data)
    os.utime(source, (int(_EPOCH["SOURCE_DATE_EPOCH"]),) * 2)
    run("mcopy", "-m", "-i", drive, source, f"::{name}", env=_EPOCH)


def bios_disk(path: Path, scratch: Path, *, kernel: bytes, initrd: bytes, cmdline: str, image_id: str) -> None:
    """Write a raw disk that a PC BIOS boots: MBR, syslinux, FAT16."""
    _blank(path, image_id)
    table = (
        "label: dos\nlabel-id: 0x48564301\n"
        f"start={_sectors(BOOT_OFFSET)}, size={_sectors(BOOT_SIZE)}, type=e, bootable\n"
        f"start={_sectors(STATE_OFFSET)}, size={_sectors(STATE_SIZE)}, type={_NOT_A_FILE_SYSTEM}\n"
        f"start={_sectors(SCRATCH_OFFSET)}, size={_sectors(SCRATCH_SIZE)}, type={_NOT_A_FILE_SYSTEM}\n"
    )
    run("sfdisk", "--quiet", path, stdin=table.encode())
    drive = _format(path)
    config = f"DEFAULT h\nPROMPT 0\nTIMEOUT 0\nLABEL h\n KERNEL vmlinuz\n INITRD initrd\n APPEND {cmdline}\n"
    _copy(drive, "vmlinuz", kernel, scratch)
    _copy(drive, "initrd", initrd, scratch)
    _copy(drive, "syslinux.cfg", config.encode(), scratch)
    run("syslinux", "--install", "--offset", str(BOOT_OFFSET), path, env=_EPOCH)
    with path.open("r+b") as disk:
        disk.write(MBR.read_bytes()[:440])


def uefi_disk(path: Path, scratch: Path, *, unified_kernel: bytes, image_id: str) -> None:
    """Write a raw disk that UEFI boots: GPT and an ESP with a unified kernel image at the removable-media path."""
    _blank(path, image_id)
    names = (
        (BOOT_OFFSET, BOOT_SIZE, "uefi", "hvconform-esp"),
        (STATE_OFFSET, STATE_SIZE, _LINUX_RESERVED, "hvconform-state"),
        (SCRATCH_OFFSET, SCRATCH_SIZE, _LINUX_RESERVED, "hvconform-scratch"),
    )
    table = f"label: gpt\nlabel-id: {_GUID.format(0)}\n" + "".join(
        f'start={_sectors(start)}, size={_sectors(size)}, type={kind}, uuid={_GUID.format(number)}, name="{name}"\n'
        for number, (start, size, kind, name) in enumerate(names, 1)
    )
    run("sfdisk", "--quiet", path, stdin=table.encode())
    drive = _format(path)
    run("mmd", "-i", drive, "::EFI", "::EFI/BOOT", env=_EPOCH)
    _copy(drive, "EFI/BOOT/BOOTX64.EFI", unified_kernel, scratch)


def convert(raw: Path, into: Path, disk_format: str) -> None:
    """Write `raw` in another format, the same bytes every time: identifiers that QEMU draws at random are fixed.

    None is compressed: kernel and initrd are already, and a host would unpack each cluster again for each read of it.
    """
    options = {"vmdk": ["-o", "subformat=monolithicSparse"], "vhdx": ["-o", "subformat=dynamic"]}
    run("qemu-img", "convert", "-f", "raw", "-O", disk_format, *options.get(disk_format, []), raw, into)
    if disk_format == "vmdk":
        identifiers.fix_vmdk(into)
    elif disk_format == "vhdx":
        identifiers.fix_vhdx(into)
