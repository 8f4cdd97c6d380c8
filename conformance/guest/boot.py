"""What boot loaders and firmware are given: the kernel and the initial RAM disk, in the forms that they read."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path

from conformance.errors import LabError
from conformance.guest import packages


def compress(initrd: bytes) -> bytes:
    """An initial RAM disk as loaders read it: LZ4, in the one form that the kernel knows.

    That form has no end, for which the kernel takes four zero bytes: newer EFI stubs (seen with systemd 257) put
    archives of their own behind it, which begin at multiples of four.
    """
    compressed = packages.run("lz4", "-l", "-9", "-c", stdin=initrd)
    return compressed + bytes(4 + -len(compressed) % 4)


def uncompress(bzimage: bytes) -> bytes:
    """The ELF kernel within a bzImage (Linux x86 boot protocol: setup_sects, payload_offset, payload_length).

    Raises:
        LabError: It is no bzImage, or is compressed in a way unknown here.
    """
    if bzimage[0x202:0x206] != b"HdrS" and bzimage[0x202:0x206] != b"SrdH":
        raise LabError("the package's kernel is no bzImage")
    setup = (bzimage[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    payload = bzimage[setup * 512 + offset :][:length]
    size = struct.unpack("<I", payload[-4:])[0]
    if payload.startswith(b"\x02\x21\x4c\x18"):
        elf = packages.run("lz4", "-d", "-c", stdin=payload[:-4])
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        elf = packages.run("zstd", "-d", "-c", stdin=payload[:-4])
    elif payload.startswith(b"\xfd7zXZ\x00"):
        elf = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload[:-4])
    else:
        raise LabError(f"the kernel is compressed in an unknown way: it begins {payload[:4].hex()}")
    if not elf.startswith(b"\x7fELF") or len(elf) != size:
        raise LabError("the uncompressed kernel is not a whole ELF file")
    return elf


def unified(scratch: Path, stub: Path, kernel: bytes, initrd: bytes, cmdline: str) -> bytes:
    """systemd's EFI stub with kernel, initrd and command line as sections (UAPI group's UKI specification).

    Raises:
        LabError: The stub takes the room of the sections.
    """
    linked = stub.read_bytes()
    optional = _optional_header(linked)
    (base,) = struct.unpack_from("<Q", linked, optional + 24)  # 0 with systemd 252, not with 257
    (size,) = struct.unpack_from("<I", linked, optional + 56)
    sections = {
        ".osrel": (0x20000, b"ID=hvconform\nNAME=hvconform\n"),
        ".cmdline": (0x30000, cmdline.encode()),
        ".linux": (0x2000000, kernel),
        ".initrd": (0x4000000, initrd),
    }
    if size > sections[".osrel"][0]:
        raise LabError(f"systemd's EFI stub has grown to {size} bytes, beyond where the sections go")
    words: list[str | Path] = []
    for name, (offset, data) in sections.items():
        source = scratch / f"section{name}"
        source.write_bytes(data)
        words += ["--add-section", f"{name}={source}", "--change-section-vma", f"{name}={base + offset:#x}"]
    out = scratch / "unified.efi"
    packages.run("objcopy", *words, stub, out)
    image = bytearray(out.read_bytes())
    # objcopy stamps the time of the build, and sums it up; firmware asks for neither
    optional = _optional_header(image)
    struct.pack_into("<I", image, optional - 16, 0)
    struct.pack_into("<I", image, optional + 64, 0)
    return bytes(image)


def _optional_header(image: bytes | bytearray) -> int:
    """Where a PE file's optional header begins: behind the signature and the COFF header."""
    return int(struct.unpack_from("<I", image, 0x3C)[0]) + 24
