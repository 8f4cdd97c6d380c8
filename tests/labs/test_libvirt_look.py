"""What a look at a libvirt host makes of names that newer daemons give; no host needed."""

from __future__ import annotations

import pytest

from conformance.observers.host import Entry
from labs.libvirt_hosts.look import Look


def inventory(path: str) -> frozenset[Entry]:
    seen = Look("a")
    seen.around.files.append(("s", "0", path))
    return seen.inventory(["/srv/shared"], [])


@pytest.mark.parametrize(
    "path",
    [
        "/run/libvirt/qemu/channel/{}-hvc-1/org.qemu.guest_agent.0",  # libvirt 11
        "/var/lib/libvirt/qemu/channel/target/domain-{}-hvc-1/org.qemu.guest_agent.0",
        "/var/lib/libvirt/qemu/domain-{}-hvc-1/monitor.sock",
    ],
)
def test_files_go_by_no_domains_number(path: str) -> None:
    assert inventory(path.format(1)) == inventory(path.format(52))


def test_a_number_in_a_vms_own_name_counts() -> None:
    assert inventory("/srv/shared/1-vm.qcow2") != inventory("/srv/shared/2-vm.qcow2")
