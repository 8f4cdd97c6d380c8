"""A lab is held by one process at a time, and is free again when that process is gone."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from conformance.errors import LabBusy, LabError
from conformance.lab.inventory import LabInventory
from conformance.lab.leases import acquire, key
from conformance.waiting import until
from labs.simulated.lab import inventory

REDIS = shutil.which("redis-server") or shutil.which("redis-check-rdb")
"""One program under several names; the package redis-tools has it without a service."""

ETCD = shutil.which("etcd")

HOLD = """
import sys
from labs.simulated.lab import inventory
from conformance.lab.leases import acquire
held = acquire([inventory("one")], ["one"], url=sys.argv[1], who="other")
print("held", flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], executable: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, executable=executable, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int, path: str = "") -> bool:
    try:
        if path:
            return b"true" in urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).read()
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"AUTH hidden-word\r\nPING\r\n")
            return b"PONG" in connection.recv(64)
    except OSError:
        return False


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    pytest.importorskip("redis")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "hidden-word"]
    assert REDIS is not None
    with serving(command, REDIS, folder):
        until("Redis to answer", lambda: answers(port), seconds=20)
        yield f"redis://:hidden-word@127.0.0.1:{port}?lock_timeout=2"


@contextmanager
def etcd(folder: Path) -> Iterator[str]:
    pytest.importorskip("etcd3gw")
    port, peer = free_port(), f"http://127.0.0.1:{free_port()}"
    here = f"http://127.0.0.1:{port}"
    command = ["etcd", "--data-dir", str(folder / "data"), "--listen-client-urls", here]
    command += ["--advertise-client-urls", here, "--listen-peer-urls", peer]
    command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    assert ETCD is not None
    with serving(command, ETCD, folder):
        until("etcd to answer", lambda: answers(port, "/health"), seconds=30)
        yield f"etcd3+http://127.0.0.1:{port}?lock_timeout=2"


@pytest.fixture(
    params=[
        "file",
        pytest.param("redis", marks=pytest.mark.skipif(REDIS is None, reason="no redis-tools here")),
        pytest.param("etcd", marks=pytest.mark.skipif(ETCD is None, reason="no etcd-server here")),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}"
        return
    with {"redis": redis, "etcd": etcd}[request.param](tmp_path) as found:
        yield found


@pytest.fixture
def pool() -> list[LabInventory]:
    return [inventory("one"), inventory("two")]


def test_lease_dies_with_its_process(url: str, pool: list[LabInventory]) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    try:
        with pytest.raises(LabBusy, match="no lab is free for me: all of one are leased"):
            acquire(pool[:1], ["one"], url=url, who="me", wait_s=0.2)
        elsewhere = acquire(pool, ["one", "two"], url=url, who="me", wait_s=0.2)
        assert elsewhere.lab.name == "two"
        elsewhere.release()
    finally:
        other.kill()
        other.communicate()

    # a file's lock ends with its process, another coordinator's when nobody has renewed it for a while
    lease = acquire(pool[:1], ["one"], url=url, who="me", wait_s=15)
    assert lease.lab.name == "one"
    lease.release()


def test_wrong_coordinator_is_one_message(pool: list[LabInventory]) -> None:
    with pytest.raises(LabError, match="lease coordinator nonsense://x cannot be used"):
        acquire(pool, ["one", "two"], url="nonsense://x", who="me")


def test_lease_that_is_held_is_renewed(tmp_path: Path, pool: list[LabInventory]) -> None:
    if REDIS is None:
        pytest.skip("no redis-tools here")
    with redis(tmp_path) as url:
        held = acquire(pool[:1], ["one"], url=url, who="me")
        with pytest.raises(LabBusy):  # for longer than it would last by itself
            acquire(pool[:1], ["one"], url=url, who="other", wait_s=5)
        held.release()


@pytest.mark.parametrize("url", ["redis://:hidden-word@127.0.0.1:1", "etcd3+http://me:hidden-word@127.0.0.1:1"])
def test_coordinator_that_is_not_there_is_one_message(pool: list[LabInventory], url: str) -> None:
    pytest.importorskip("redis")
    pytest.importorskip("etcd3gw")
    with pytest.raises(LabError, match=r"lease coordinator 127\.0\.0\.1:1 cannot be used") as caught:
        acquire(pool[:1], ["one"], url=url, who="me")
    assert "hidden-word" not in str(caught.value)
    assert "HVCONFORM_LEASES" in caught.value.hint


def test_client_that_is_not_installed_names_the_extra(
    pool: list[LabInventory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "tooz.drivers.redis", raising=False)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(LabError, match="client is not installed") as caught:
            acquire(pool[:1], ["one"], url=url, who="me")
    assert caught.value.hint == "pip install 'hvconform[redis]'"


def test_only_a_lab_of_ones_own_is_the_same_everywhere(tmp_path: Path) -> None:
    mine = inventory("rack7").model_copy(update={"kind": "libvirt"})
    nested = mine.model_copy(update={"kind": "kvm", "state_dir": tmp_path})
    assert key(mine) == "rack7"
    assert key(nested) != key(nested.model_copy(update={"state_dir": tmp_path / "other"}))
