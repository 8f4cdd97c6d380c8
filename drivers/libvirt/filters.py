"""The anti-spoofing filter: libvirt's own `clean-traffic` drops IPv6 altogether, and is not installed everywhere."""

from __future__ import annotations

from typing import Any

from drivers.libvirt.binding import lv
from drivers.libvirt.xml import ANTI_SPOOF_FILTER

# What leaves the guest: its own MAC only; ARP that claims nothing but its own MAC and address; IPv4 from its own
# address, or from none while it asks DHCP; IPv6 with its own MAC. Everything else is dropped. The address is
# learned from what the guest says first (CTRL_IP_LEARNING=any), since the filter also has to hold after a migration,
# when no DHCP exchange would be seen. Rules of the link layer only: with the first one for iptables, libvirt makes
# chains on the host that it never takes away again.
_XML = f"""
<filter name='{ANTI_SPOOF_FILTER}' chain='root'>
  <rule action='drop' direction='out' priority='-800'><mac match='no' srcmacaddr='$MAC'/></rule>
  <rule action='drop' direction='out' priority='-700'><arp match='no' arpsrcmacaddr='$MAC'/></rule>
  <rule action='accept' direction='out' priority='-650'><arp arpsrcipaddr='0.0.0.0'/></rule>
  <rule action='drop' direction='out' priority='-600'><arp match='no' arpsrcipaddr='$IP'/></rule>
  <rule action='accept' direction='out' priority='-550'><arp/></rule>
  <rule action='accept' direction='out' priority='-500'>
    <ip srcipaddr='0.0.0.0' protocol='udp' srcportstart='68' dstportstart='67'/></rule>
  <rule action='drop' direction='out' priority='-450'><ip match='no' srcipaddr='$IP'/></rule>
  <rule action='accept' direction='out' priority='-400'><ip/></rule>
  <rule action='accept' direction='out' priority='-350'><ipv6/></rule>
  <rule action='accept' direction='out' priority='-300'><rarp/></rule>
  <rule action='accept' direction='in' priority='0'><mac/></rule>
  <rule action='drop' direction='out' priority='1000'><mac/></rule>
</filter>
"""


def ensure(conn: Any) -> None:
    """Define the filter on a host if it is not there."""
    try:
        conn.nwfilterLookupByName(ANTI_SPOOF_FILTER)
    except lv.libvirtError as error:
        if error.get_error_code() != lv.VIR_ERR_NO_NWFILTER:
            raise
        conn.nwfilterDefineXML(_XML)


def drop(conn: Any) -> None:
    """Undefine the filter unless some VM still uses it."""
    try:
        conn.nwfilterLookupByName(ANTI_SPOOF_FILTER).undefine()
    except lv.libvirtError as error:
        if error.get_error_code() not in (lv.VIR_ERR_NO_NWFILTER, lv.VIR_ERR_OPERATION_INVALID):
            raise
