"""A Xen guest knows its disks by the names of the files behind them: the agent's own code, run here on such names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conformance.guest.image import AGENT
from drivers.libvirt import naming

_MAIN = """
#include "agent.h"
int main(int count, char **names) {
    char serial[128];
    for (int i = 1; i < count; i++) {
        xen_serial(names[i], serial, sizeof serial);
        printf("%s\\n", serial);
    }
}
"""

VM = "93632902-6e17-561e-8f0a-da4a8af69116"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xen")
    (folder / "main.c").write_text(_MAIN)
    sources = [AGENT / name for name in ("xenstore.c", "util.c")]
    built = folder / "xen_serial"
    subprocess.run(["gcc", "-std=gnu17", f"-I{AGENT}", "-o", built, folder / "main.c", *sources], check=True)
    return built


def serials(program: Path, *names: str) -> list[str]:
    done = subprocess.run([program, *names], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("serial", ["root", "data0", "a.b+c_d-e", "." * 20])
def test_the_driver_s_file_names_give_the_serial_back(program: Path, serial: str) -> None:
    disk = f"qcow2:/srv/some.place/{naming.disk_file(VM, serial)}"
    volume = f"/srv/{naming.volume_file('a name.with %dots', serial)}"
    assert serials(program, disk, volume) == [serial, serial]


@pytest.mark.parametrize("name", ["", "qcow2:/dev/vg/disk", "aio:/srv/disk.img", "/a.b.c/disk", "disk"])
def test_a_name_without_a_serial_gives_none(program: Path, name: str) -> None:
    assert serials(program, name) == [""]


def test_what_is_no_percent_code_is_left_as_it_is(program: Path) -> None:
    assert serials(program, "x:/hvc-1.50%zz%2.qcow2", "x:/hvc-1.%41%4.qcow2") == ["50%zz%2", "A%4"]
