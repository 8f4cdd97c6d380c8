"""What is plugged in while the guest runs is brought into use by its agent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conformance.guest import GuestImages
from conformance.guest.cpio import Archive
from conformance.waiting import until
from tests.guest.vm import Vm, running, with_behind

pytestmark = pytest.mark.lab


def test_cpu(vm: Vm) -> None:
    slot = next(slot for slot in vm.qmp("query-hotpluggable-cpus") if "qom-path" not in slot)
    vm.qmp("device_add", driver=slot["type"], id="cpu1", **slot["props"])
    until("two CPUs online", lambda: vm.guest.cpus().online, lambda online: online == 2, seconds=10)


def test_a_cpu_that_the_kernel_refuses_at_first(images: GuestImages, tmp_path: Path) -> None:
    """As Xen's hot-plug has it refused; the kernel is told here to fail once."""
    first = Archive()
    first.file(
        "first",
        b"#!/bin/busybox sh\n"
        b"/bin/busybox mount -t sysfs sysfs /sys && echo 1 > /sys/devices/system/cpu/cpu1/hotplug/fail\n"
        b"/bin/busybox cat /sys/devices/system/cpu/cpu1/hotplug/fail\n"
        b"exec /init\n",
        0o755,
    )
    extra = ["-smp", "2", "-append", f"{images.cmdline} maxcpus=1 rdinit=/first"]
    with running(with_behind(images, first, tmp_path), tmp_path, None, extra=extra) as vm:
        vm.wait_up()
        assert re.search(rb"^1\r?$", vm.drain_console(), re.MULTILINE), "the kernel was not told to fail"
        until("two CPUs online", lambda: vm.guest.cpus().online, lambda online: online == 2, seconds=10)


def test_memory(vm: Vm) -> None:
    before = vm.guest.memory().total_kib
    vm.qmp("object-add", **{"qom-type": "memory-backend-ram", "id": "more", "size": 128 << 20})
    vm.qmp("device_add", driver="pc-dimm", id="dimm", memdev="more")
    until("128 MiB more", lambda: vm.guest.memory().total_kib, lambda now: now >= before + 120 * 1024, seconds=10)


def test_nic(vm: Vm) -> None:
    mac = "52:54:00:00:00:33"
    vm.qmp("netdev_add", type="user", id="plugged")
    vm.qmp("device_add", driver="virtio-net-pci", id="nic3", netdev="plugged", mac=mac, romfile="")
    until(
        "an address on the new NIC",
        lambda: vm.guest.nic(mac),
        lambda nic: nic is not None and any(address.startswith("10.0.2.") for address in nic.addresses),
        seconds=10,
    )
    vm.qmp("device_del", id="nic3")
    until("the NIC to be gone", lambda: vm.guest.nic(mac) is None, seconds=10)


def test_disk(vm: Vm) -> None:
    vm.qmp("blockdev-add", **{"driver": "null-co", "node-name": "plugged", "size": 1 << 20, "read-zeroes": True})
    vm.qmp("device_add", driver="virtio-blk-pci", id="disk3", drive="plugged", serial="plugged")
    until("the disk", lambda: vm.guest.disk("plugged") is not None, seconds=10)
    vm.qmp("device_del", id="disk3")
    until("the disk to be gone", lambda: vm.guest.disk("plugged") is None, seconds=10)


def test_scsi_disk(vm: Vm) -> None:
    vm.qmp("blockdev-add", **{"driver": "null-co", "node-name": "scsi", "size": 1 << 20, "read-zeroes": True})
    vm.qmp("device_add", driver="virtio-scsi-pci", id="hba")
    vm.qmp("device_add", driver="scsi-hd", id="lun", bus="hba.0", drive="scsi", serial="on-scsi")
    until("the SCSI disk", lambda: vm.guest.disk("on-scsi") is not None, seconds=15)
