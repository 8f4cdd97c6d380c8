"""The agent finds a disk's serial in the identifier that Hyper-V shows, and takes nothing else for one."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable

import pytest

from conformance.guest import image
from drivers.hyperv import naming

MAIN = """
#include <stdbool.h>
#include <stdio.h>
bool vpd_identifier(const unsigned char *page, size_t length, char *into, size_t size);
int main(void) {
    unsigned char page[1024];
    char serial[128];
    size_t length = fread(page, 1, sizeof page, stdin);
    if (!vpd_identifier(page, length, serial, sizeof serial))
        return 1;
    fputs(serial, stdout);
    return 0;
}
"""

NAA = bytes([1, 3, 0, 16]) + bytes.fromhex("600224801122334455667788990011aa")


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], str | None]:
    """What the agent's code finds in a page; None for nothing."""
    folder = tmp_path_factory.mktemp("vpd")
    main = folder / "main.c"
    main.write_text(MAIN, encoding="ascii")
    flags = ["-std=gnu17", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    subprocess.run(["gcc", *flags, "-o", folder / "vpd", main, image.AGENT / "vpd.c"], check=True)

    def run(page: bytes) -> str | None:
        done = subprocess.run([folder / "vpd"], input=page, capture_output=True, check=False)
        assert not done.stderr, done.stderr.decode()
        return done.stdout.decode() if done.returncode == 0 else None

    return run


def page(*designators: bytes) -> bytes:
    body = b"".join(designators)
    return bytes([0, 0x83]) + len(body).to_bytes(2, "big") + body


def t10(identifier: bytes, vendor: bytes = b"MSFT    ") -> bytes:
    return bytes([2, 1, 0, len(vendor + identifier)]) + vendor + identifier


def identifier(serial: str) -> bytes:
    """The bytes that the driver sets for a serial."""
    return uuid.UUID(naming.disk_id(serial)).bytes_le


@pytest.mark.parametrize("serial", ["root", "data0", "a", "s" * 16])
def test_a_serial_that_was_set(find: Callable[[bytes], str | None], serial: str) -> None:
    assert find(page(NAA, t10(identifier(serial)))) == serial
    assert find(page(t10(identifier(serial)), NAA)) == serial


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\x83",
        page(),
        page(NAA),
        page(t10(bytes(range(200, 216)))),
        page(t10(bytes(16))),
        page(t10(b"ro\0t" + bytes(12))),
        page(t10(b"root".ljust(16, b"\0"), vendor=b"QEMU    ")),
        page(t10(b"root")),
        page(t10(identifier("root")))[:-4],
        bytes([0, 0x80]) + page(t10(identifier("root")))[2:],
        bytes([0, 0x83, 0xFF, 0xFF]) + t10(identifier("root"))[:20],
    ],
    ids=range(12),
)
def test_what_is_no_serial(find: Callable[[bytes], str | None], data: bytes) -> None:
    assert find(data) is None
