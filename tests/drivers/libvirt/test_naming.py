"""Names and files on the hosts: everything follows from a VM's name, and no name can leave its place."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from conformance.errors import InvalidRequest
from drivers.libvirt import naming

ODD = ["-x", " lead", "[a]*?", "日本 🎉", "a" * naming.MAX_NAME_BYTES, "'\"<&>%,;$(x)`", "..x", "x\\y", "İ"]


@pytest.mark.parametrize("name", ODD)
def test_any_printable_name_is_taken(name: str) -> None:
    naming.check_name(name, "create")


REFUSED = ["", "  ", "a/b", "../../etc", "a\nb", "a\0b", ".", "..", "x" * 181, "ü" * 91, "\ud800"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_libvirt_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        naming.check_name(name, "create")


@pytest.mark.parametrize("name", [*ODD, "../../etc/passwd", "a/b"])
def test_no_file_name_is_made_of_a_name(name: str) -> None:
    vm = naming.vm_uuid(name)
    for file in (naming.disk_file(vm, "root"), naming.console_file(vm), naming.nvram_file(vm)):
        assert PurePath(file).name == file
        assert file.startswith(naming.vm_prefix(vm))
        assert len(file.encode()) < 255


def test_names_that_look_alike_are_apart() -> None:
    names = ["a", "A", "ab", " a", "e\u0301", "\u00e9"]
    assert len({naming.vm_uuid(name) for name in names}) == len(names)
    assert naming.vm_uuid("a") != naming.volume_id("a")


def test_the_files_of_one_vm_never_start_like_those_of_another() -> None:
    first, second = naming.vm_uuid("a"), naming.vm_uuid("ab")
    assert not naming.disk_file(second, "root").startswith(naming.vm_prefix(first))


@pytest.mark.parametrize("name", [name for name in ODD if len(name) < 100] + ["a/b", "a.b.c", "50%"])
def test_a_volume_file_tells_name_and_serial(name: str) -> None:
    file = naming.volume_file(name, "vol.0+x")
    assert PurePath(file).name == file
    assert naming.parse_volume_file(f"/somewhere/{file}") == (naming.volume_id(name), "vol.0+x", name)


@pytest.mark.parametrize("file", ["base.qcow2", "hvc-vol-x.qcow2", "hvc-1234.root.qcow2", "hvc-vol-a.b.c.raw"])
def test_a_foreign_file_is_no_volume(file: str) -> None:
    assert naming.parse_volume_file(file) is None


def test_libvirt_keeps_a_name_whose_start_fits_a_socket_path() -> None:
    assert naming.libvirt_name("run-7") == "run-7"
    assert naming.libvirt_name("a" * 180) == "a" * 180
    assert naming.libvirt_name("ü" * 90) == f"hvc-{naming.vm_uuid('ü' * 90)}"


@pytest.mark.parametrize("serial", ["", "x" * 21, "a b", "a/b", "ä", "a,b"])
def test_a_serial_that_virtio_cannot_show_is_refused(serial: str) -> None:
    with pytest.raises(InvalidRequest):
        naming.check_serial(serial, "create")


@pytest.mark.parametrize("mac", ["", "52:54:00:00:00", "52:54:00:AA:00:01", "01:00:5e:00:00:01", "52-54-00-00-00-01"])
def test_what_is_no_unicast_mac_is_refused(mac: str) -> None:
    with pytest.raises(InvalidRequest):
        naming.check_mac(mac, "create")
