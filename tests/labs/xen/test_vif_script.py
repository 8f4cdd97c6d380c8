"""dom0's script that plugs NICs in, before a store and an `ip` that are doubles."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from labs.xen.debian import DATA

SCRIPT = DATA / "root/etc/xen/scripts/vif-bridge"
RECORDER = '#!/bin/sh\necho "${0##*/} $*" >> "$HOST/did"\n'
STORE = """#!/bin/sh
[ "$1" = /local/domain/0/backend/vif/7/1 ] && cat "$HOST/store"
"""
PATH_7_1 = "/local/domain/0/backend/vif/7/1"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    for name, text in {"xenstore-ls": STORE, "xenstore-write": RECORDER, "ip": RECORDER}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "store").write_text(
        'frontend = "/local/domain/7/device/vif/1"\nbridge = "lo"\nmac = "52:54:00:00:00:01"\n'
    )
    (tmp_path / "did").touch()
    monkeypatch.setenv("HOST", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def plug(host: Path, *args: str, **environment: str) -> tuple[int, list[str]]:
    # bridges are looked for in sysfs, where a test has none of its own
    text = (
        SCRIPT.read_text()
        .replace("/sys/class/net/$bridge/bridge", str(host))
        .replace("/sys/class/net/$bridge/mtu", str(host / "mtu"))
    )
    (host / "mtu").write_text("9000\n")
    done = subprocess.run(
        ["sh", "-c", text, "vif-bridge", *args],
        env={"PATH": f"{host / 'bin'}:/usr/bin:/bin", "HOST": str(host), **environment},
        check=False,
    )
    return done.returncode, (host / "did").read_text().splitlines()


def test_a_nic_is_plugged_in_with_its_bridges_mtu_and_told(host: Path) -> None:
    status, did = plug(host, "online", "type_if=vif", vif="vif7.1", XENBUS_PATH=PATH_7_1)
    assert status == 0
    assert did == [
        "ip link set dev vif7.1 address fe:ff:ff:ff:ff:ff mtu 9000 master lo up",
        f"xenstore-write {PATH_7_1}/hotplug-status connected /local/domain/7/device/vif/1/mtu 9000",
    ]


def test_the_store_may_say_another_mtu(host: Path) -> None:
    with (host / "store").open("a") as store:
        store.write('mtu = "1400"\n')
    _, did = plug(host, "online", "type_if=vif", vif="vif7.1", XENBUS_PATH=PATH_7_1)
    assert "mtu 1400" in did[0]


def test_an_emulated_nic_goes_to_the_bridge_of_its_vif(host: Path) -> None:
    status, did = plug(host, "add", "type_if=tap", INTERFACE="vif7.1-emu")
    assert status == 0
    assert did == ["ip link set dev vif7.1-emu address fe:ff:ff:ff:ff:ff mtu 9000 master lo up"]


def test_a_nic_is_taken_out(host: Path) -> None:
    assert plug(host, "offline", "type_if=vif", vif="vif7.1", XENBUS_PATH=PATH_7_1) == (
        0,
        ["ip link set dev vif7.1 down nomaster"],
    )


def test_what_is_not_its_business_is_left(host: Path) -> None:
    assert plug(host, "online", "type_if=tap", INTERFACE="vif7.1-emu") == (0, [])


def test_a_failure_is_written_where_libxl_reads_it(host: Path) -> None:
    (host / "bin" / "ip").write_text("#!/bin/sh\necho no such bridge; exit 2\n")
    status, did = plug(host, "online", "type_if=vif", vif="vif7.1", XENBUS_PATH=PATH_7_1)
    assert status == 1
    assert did == [f"xenstore-write {PATH_7_1}/hotplug-error no such bridge {PATH_7_1}/hotplug-status error"]
