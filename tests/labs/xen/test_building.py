"""The cache of what the Xen lab is built of, and the keys: whole or not at all, and named by content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from conformance.errors import MissingRequirement
from labs.xen import hypervisor, keys
from labs.xen.debian import MIRROR, cached, digest, sources


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    calls = []

    def make(out: Path, scratch: Path) -> None:
        calls.append(out)
        (out / "made").write_text("x")
        (scratch / "rest").write_text("y")

    first, second = (cached(tmp_path / "kinds" / "key", make) for _ in range(2))

    assert first == second
    assert len(calls) == 1
    assert sorted(path.name for path in first.iterdir()) == ["complete", "made"]
    assert [path.name for path in first.parent.iterdir()] == ["key"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def make(out: Path, _: Path) -> None:
        (out / "half").write_text("x")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached(tmp_path / "key", make)

    assert list(tmp_path.iterdir()) == []


def test_a_name_is_of_content_and_of_where_parts_end(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    before = digest([file])
    file.write_text("two")

    assert digest([file]) != before
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    changed = digest([file])
    file.chmod(0o755)
    assert digest([file]) != changed


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """What apt says of its repositories, in place of the machine's own."""
    command = tmp_path / "apt-get"
    command.write_text('#!/bin/sh\ncat "$0.says"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv(MIRROR, raising=False)
    sources.cache_clear()
    yield command.with_suffix(".says")
    sources.cache_clear()


def test_packages_come_from_the_machines_own_repositories_of_debian_12(apt: Path) -> None:
    own, other = "mirror://one/debian bookworm main", "mirror://two/ubuntu noble main"
    apt.write_text(f"Ubuntu {other}\nDebian {own}\nDebian {own}\nDebian mirror://one/debian trixie main\n")
    with apt.open("a") as listing:
        listing.write("Debian Backports mirror://one/debian bookworm-backports main\n\n")

    assert sources() == (own,)


def test_a_machine_of_another_release_takes_them_from_its_own_mirrors(apt: Path) -> None:
    releases = ["one/debian trixie main", "one/debian trixie contrib", "one/debian trixie-backports main"]
    releases += ["one/debian trixie-updates main", "two/security trixie-security main"]
    apt.write_text("".join(f"Debian mirror://{release}\n" for release in releases))

    taken = ["one/debian bookworm main", "one/debian bookworm-updates main", "two/security bookworm-security main"]
    assert sources() == tuple(f"mirror://{release}" for release in taken)


def test_a_machine_without_them_is_told_how_to_name_a_mirror(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt.write_text("Ubuntu mirror://two/ubuntu noble main\n")
    with pytest.raises(MissingRequirement, match="bookworm") as refused:
        sources()
    assert MIRROR in refused.value.hint

    monkeypatch.setenv(MIRROR, "mirror://three/debian")
    assert sources() == ("mirror://three/debian bookworm main", "mirror://three/debian bookworm-updates main")


def test_the_newest_source_comes_first() -> None:
    known = ["4.17.5+72-g01140da4e8-1", "4.17.7+13-g2445b30a44-0+deb12u1", "4.17.5+9-gffffffffff-1"]

    assert sorted(known, key=hypervisor._order, reverse=True) == [known[1], known[0], known[2]]


def test_keys_are_what_ssh_reads_and_nobody_else_does(tmp_path: Path) -> None:
    pair = keys.make()
    keys.write(pair, tmp_path / "key")

    private = load_ssh_private_key((tmp_path / "key").read_bytes(), None)
    public = load_ssh_public_key((tmp_path / "key.pub").read_bytes())
    assert private.public_key() == public
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
