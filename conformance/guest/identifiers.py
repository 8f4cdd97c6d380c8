"""Fixes what QEMU draws at random in VMDK and VHDX files, so that a disk is the same bytes each time."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from conformance.errors import LabError

_FIXED = UUID("48564300-0000-4000-8000-0000000000ff").bytes_le
_KIB = 1024

# [MS-VHDX] 2.2: headers at 64 and 128 KiB, the first region table at 192 KiB
_VHDX_HEADERS = (64 * _KIB, 128 * _KIB)
_VHDX_REGIONS = 192 * _KIB
_METADATA_REGION = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_PAGE_83_DATA = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746").bytes_le


def fix_vmdk(path: Path) -> None:
    """Fix the content id of a sparse VMDK, in the descriptor that begins at its second sector."""
    with path.open("r+b") as disk:
        offset, size = struct.unpack("<QQ", disk.read(44)[28:44])
        disk.seek(offset * 512)
        descriptor = disk.read(size * 512)
        # what follows the first zero is what QEMU left of a text that had a longer content id
        text = descriptor.partition(b"\0")[0]
        fixed, found = re.subn(rb"(?m)^CID=[0-9a-f]{1,8}$", b"CID=48564301", text)
        if not found:
            raise LabError(f"{path} has no content id where one was expected")
        disk.seek(offset * 512)
        disk.write(fixed.ljust(len(descriptor), b"\0"))


def fix_vhdx(path: Path) -> None:
    """Fix the write identifiers, sequence numbers and disk id of a VHDX, and empty its log, which must be idle."""
    with path.open("r+b") as disk:
        log_offset = log_length = 0
        for sequence, at in enumerate(_VHDX_HEADERS, 1):
            disk.seek(at)
            header = bytearray(disk.read(4 * _KIB))
            if header[:4] != b"head" or any(header[48:64]):
                raise LabError(f"{path} has no header, or a log that must be replayed, at {at}")
            struct.pack_into("<IQ16s16s", header, 4, 0, sequence, _FIXED, _FIXED)
            struct.pack_into("<I", header, 4, _crc32c(header))
            log_length, log_offset = struct.unpack_from("<IQ", header, 68)
            disk.seek(at)
            disk.write(header)
        disk.seek(log_offset)
        disk.write(bytes(log_length))
        disk.seek(_disk_id_offset(disk, path))
        disk.write(_FIXED)


def _disk_id_offset(disk: BinaryIO, path: Path) -> int:
    disk.seek(_VHDX_REGIONS)
    regions = disk.read(64 * _KIB)
    for at in range(16, 16 + 32 * struct.unpack_from("<I", regions, 8)[0], 32):
        if regions[at : at + 16] != _METADATA_REGION:
            continue
        start = struct.unpack_from("<Q", regions, at + 16)[0]
        disk.seek(start)
        table = disk.read(64 * _KIB)
        for item in range(32, 32 + 32 * struct.unpack_from("<H", table, 10)[0], 32):
            if table[item : item + 16] == _PAGE_83_DATA:
                return int(start + struct.unpack_from("<I", table, item + 16)[0])
    raise LabError(f"{path} has no disk id in its metadata")


def _crc32c(data: bytes | bytearray) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
