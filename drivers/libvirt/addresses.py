"""What libvirt knows of a running VM's addresses."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from drivers.libvirt.binding import lv

Address = IPv4Address | IPv6Address


def by_mac(dom: Any, source: int) -> Mapping[str, tuple[Address, ...]]:
    """Addresses by MAC from one of libvirt's sources, without loopback and link-local ones."""
    try:
        interfaces = dom.interfaceAddresses(source, 0) or {}
    except lv.libvirtError as error:
        # the agent is not there after all, or does not answer in libvirt's five seconds
        if error.get_error_code() not in (lv.VIR_ERR_AGENT_UNRESPONSIVE, lv.VIR_ERR_OPERATION_INVALID):
            raise
        return {}
    found: dict[str, tuple[Address, ...]] = {}
    for interface in interfaces.values():
        parsed = [ip_address(item["addr"].partition("%")[0]) for item in interface["addrs"] or ()]
        mac = str(interface.get("hwaddr") or "").lower()
        found[mac] = found.get(mac, ()) + tuple(one for one in parsed if not (one.is_loopback or one.is_link_local))
    return found
