"""Names on Hyper-V hosts: found again from a VM's name, never taken for a wildcard or a path."""

from __future__ import annotations

import uuid

import pytest

from conformance.errors import InvalidRequest
from drivers.hyperv import naming


def test_a_folder_follows_from_the_name_and_holds_none_of_it() -> None:
    odd = "../..\\[a]*?$(x)`'\"😀"
    assert naming.vm_folder(odd) == naming.vm_folder(odd) != naming.vm_folder(odd + " ")
    assert all(char.isalnum() or char == "-" for char in naming.vm_folder(odd))


def test_a_volume_is_read_back_from_its_file_and_from_a_layer_on_it() -> None:
    file = naming.volume_file("my vol.1", "ser.0")
    layer = file.removesuffix(".vhdx") + "_0A1B2C3D-0000-4000-8000-000000000001.avhdx"
    expected = (naming.volume_id("my vol.1"), "ser.0", "my vol.1")
    for path in (f"D:\\x\\{file}", f"\\\\s\\share\\{layer}"):
        assert naming.parse_volume_file(path) == expected
        assert naming.serial_of(path) == "ser.0"
    assert naming.is_layer(layer)
    assert not naming.is_layer(file)


@pytest.mark.parametrize("path", ["D:\\x\\root.vhdx", "D:\\hvc-vol-1.vhdx", "hvc-vol-a.b.c.d.vhdx", ""])
def test_what_is_no_volume(path: str) -> None:
    assert naming.parse_volume_file(path) is None


def test_the_identifier_of_a_disk_holds_its_serial_as_bytes() -> None:
    assert uuid.UUID(naming.disk_id("data0")).bytes_le == b"data0" + bytes(11)
    assert len({naming.disk_id(serial) for serial in ("root", "data0", "data1", "a" * 16)}) == 4


def test_paths_are_compared_as_windows_does() -> None:
    assert naming.same_path("D:\\VMs\\A", "d:/vms/a")
    assert not naming.same_path("D:\\VMs\\A", "D:\\VMs\\B")


def test_notes_are_read_back_and_foreign_ones_are_not_ours() -> None:
    assert naming.parse_notes(naming.notes("t", 'n"\\😀')) == ("t", 'n"\\😀')
    for foreign in (None, "", "hello", naming.MARK, naming.MARK + "[1]", naming.MARK + '{"target": "t"}'):
        assert naming.parse_notes(foreign) is None


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00", "n" * 101, "\ud800"])
def test_names_that_hyper_v_cannot_hold(name: str) -> None:
    with pytest.raises(InvalidRequest):
        naming.check_name(name, "create")


@pytest.mark.parametrize("serial", ["", "s" * 17, "ü", "a b", "a/b"])
def test_serials_that_do_not_fit_an_identifier(serial: str) -> None:
    with pytest.raises(InvalidRequest):
        naming.check_serial(serial, "create")
