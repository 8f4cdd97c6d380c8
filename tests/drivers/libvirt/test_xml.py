"""Domain XML: formats stated, names quoted, sizes where libvirt wants them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from drivers.libvirt import xml
from drivers.libvirt.kvm import KVM

SPEC = xml.Domain(
    name="vm <a> & 'b' ü",
    uuid="93632902-6e17-561e-8f0a-da4a8af69116",
    type="qemu",
    machine="pc",
    vcpus=2,
    max_vcpus=4,
    memory_mib=128,
    console_path="/s/hvc-1.console.log",
    storage="shared",
    image="base",
    disks=(xml.Disk("/s/a,b.qcow2", "root", "none"), xml.Disk("/s/c.qcow2", "data0", "none")),
    nics=(xml.Nic("52:54:00:00:00:01", "br1"), xml.Nic("52:54:00:00:00:02", "br2", 9000, anti_spoof=True)),
)


def build(**changes: object) -> ET.Element:
    """The domain's XML after a trip through text, as libvirt gets it."""
    return ET.fromstring(xml.text(xml.domain(replace(SPEC, **changes), KVM)))  # type: ignore[arg-type]


def test_the_name_survives_and_is_recorded_apart() -> None:
    root = build()
    assert root.findtext("name") == SPEC.name
    assert xml.record(root, "name") == SPEC.name
    assert xml.record(root, "storage") == "shared"


def test_every_disk_states_its_format_and_serial() -> None:
    disks = list(xml.disks(build()))
    assert [item.find("driver").get("type") for item in disks] == ["qcow2", "qcow2"]  # type: ignore[union-attr]
    assert [item.findtext("serial") for item in disks] == ["root", "data0"]
    assert [xml.disk_path(item) for item in disks] == ["/s/a,b.qcow2", "/s/c.qcow2"]
    assert [xml.disk_dev(item) for item in disks] == ["vda", "vdb"]


def test_there_is_room_for_vcpus_to_be_plugged() -> None:
    vcpu = build().find("vcpu")
    assert vcpu is not None
    assert (vcpu.get("current"), vcpu.text) == ("2", "4")
    assert build(max_vcpus=0).findtext("vcpu") == "2"


def test_only_a_guarded_nic_is_filtered_and_only_an_odd_mtu_is_set() -> None:
    plain, guarded = build().findall("devices/interface")
    assert plain.find("filterref") is None
    assert plain.find("mtu") is None
    assert guarded.find("filterref").get("filter") == xml.ANTI_SPOOF_FILTER  # type: ignore[union-attr]
    assert guarded.find("mtu").get("size") == "9000"  # type: ignore[union-attr]


def test_the_translation_cache_is_bounded_only_where_there_is_one() -> None:
    assert build(max_vcpus=0).find("features/tcg/tb-cache") is not None
    assert build(max_vcpus=4).find("features/tcg") is None
    assert build(max_vcpus=0, type="kvm").find("features/tcg") is None


def test_the_kernel_is_loaded_directly_or_the_disk_is_booted() -> None:
    direct = build(direct=xml.DirectBoot("/k", "/i", "console=ttyS0 quiet"))
    assert direct.findtext("os/kernel") == "/k"
    assert direct.find("os/boot") is None
    assert build().find("os/boot") is not None


def test_uefi_variables_lie_where_they_are_told() -> None:
    root = build(uefi=True, nvram_path="/s/hvc-1.nvram.fd")
    assert root.find("os").get("firmware") == "efi"  # type: ignore[union-attr]
    assert root.findtext("os/nvram") == "/s/hvc-1.nvram.fd"
    assert build().find("os/nvram") is None


def test_q35_has_ports_to_plug_into() -> None:
    assert len(build(machine="q35").findall("devices/controller[@model='pcie-root-port']")) >= 8
    assert not build().findall("devices/controller[@type='pci']")


@pytest.mark.parametrize(("index", "dev"), [(0, "vda"), (25, "vdz"), (26, "vdaa"), (27, "vdab"), (701, "vdzz")])
def test_device_names_go_on_after_z(index: int, dev: str) -> None:
    assert xml.target(KVM, index) == dev


def test_a_freed_device_name_is_used_again() -> None:
    root = build()
    devices = root.find("devices")
    assert devices is not None
    devices.remove(next(iter(xml.disks(root))))
    assert xml.free_target(root, KVM) == "vda"
    assert xml.free_target(build(), KVM) == "vdc"


def test_a_new_size_replaces_the_old_one() -> None:
    root = build()
    xml.set_size(root, vcpus=3, max_vcpus=8, memory_mib=256)
    assert xml.memory_mib(root) == 256
    assert len(root.findall("memory")) == len(root.findall("currentMemory")) == len(root.findall("vcpu")) == 1


@pytest.mark.parametrize(("value", "unit", "mib"), [("131072", None, 128), ("128", "MiB", 128), ("1", "GiB", 1024)])
def test_memory_is_read_in_any_unit(value: str, unit: str | None, mib: int) -> None:
    root = ET.Element("domain")
    xml.child(root, "memory", value, **({"unit": unit} if unit else {}))
    assert xml.memory_mib(root) == mib


def test_disks_and_nics_are_found_by_what_names_them() -> None:
    root = build()
    assert xml.disk_dev(xml.find_disk(root, serial="data0")) == "vdb"  # type: ignore[arg-type]
    assert xml.find_disk(root, serial="data") is None
    assert xml.find_disk(root) is None
    assert xml.find_interface(root, "52:54:00:00:00:02") is not None
    assert xml.find_interface(root, "52:54:00:00:00:03") is None
