"""NICs: plugged, unplugged and disconnected, for good and while the VM runs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

from conformance.driver import Operation
from conformance.errors import Exists, NotFound, Timeout
from conformance.model import NicSpec, PowerState
from conformance.waiting import WaitTimeout, now, until
from drivers.libvirt import filters, xml
from drivers.libvirt.base import OFF, Located
from drivers.libvirt.binding import lv
from drivers.libvirt.create import Create

UNPLUG_SECONDS = 20.0
"""How long a guest has to let go of a device."""

UNPLUG_AGAIN_SECONDS = 6.0
"""A request that comes while the guest boots is lost; QEMU refuses a second one for five seconds."""

CHANGEABLE = (PowerState.RUNNING, PowerState.PAUSED, *OFF)


class Unplug(Create):
    """Taking a device out of a machine that runs."""

    def _unplug(self, here: Located, operation: str, find: Callable[[ET.Element], ET.Element | None]) -> None:
        """Take a device out of the machine, wait until the guest has let go, and only then out of the definition.

        The other order is how a device ends up detached in name and attached in truth (Nova bug 1707238).
        """
        if here.active and (element := find(here.tree())) is not None:
            self._unplug_live(here, operation, xml.text(element), lambda: find(here.tree()) is not None)
        if (element := find(here.tree(inactive=True))) is not None:
            here.dom.detachDeviceFlags(xml.text(element), lv.VIR_DOMAIN_AFFECT_CONFIG)

    def _unplug_live(self, here: Located, operation: str, element: str, there: Callable[[], bool]) -> None:
        asked: float | None = None

        def gone() -> bool:
            nonlocal asked
            if not there():
                return True
            if asked is None or now() - asked > UNPLUG_AGAIN_SECONDS:
                try:
                    here.dom.detachDeviceFlags(element, lv.VIR_DOMAIN_AFFECT_LIVE)
                except lv.libvirtError:
                    if asked is None:
                        raise
                asked = now()
            return not there()

        try:
            until("the guest to let go of the device", gone, seconds=UNPLUG_SECONDS)
        except WaitTimeout as timeout:
            raise Timeout(
                f"the guest did not let go of the device in {timeout.seconds:.0f} s; it is still attached",
                phase="unplugging",
                last_state="attached",
                operation=operation,
                vm=here.vm,
                host=here.host,
            ) from None


class Devices(Unplug):
    """The facet Nics. A NIC's id is its MAC."""

    def attach_nic(self, vm: str, nic: NicSpec) -> Operation[str]:
        here = self._locate(vm, "attach_nic")
        item = self._nic(nic, "attach_nic")
        self._require(here, CHANGEABLE, "attach_nic")
        with self._guard("attach_nic", here):
            if xml.find_interface(here.tree(), nic.mac) is not None:
                raise Exists(f"there is a NIC {nic.mac}", operation="attach_nic", vm=vm, host=here.host)

        def work() -> str:
            if nic.anti_spoof:
                filters.ensure(here.conn)
            here.dom.attachDeviceFlags(xml.text(xml.interface(item, self._flavour)), here.config_flags)
            return nic.mac

        return self._start("attach_nic", here, work)

    def detach_nic(self, vm: str, nic: str) -> Operation[None]:
        here = self._locate(vm, "detach_nic")
        self._require(here, CHANGEABLE, "detach_nic")
        self._interface(here, nic, "detach_nic")
        return self._start(
            "detach_nic", here, lambda: self._unplug(here, "detach_nic", lambda root: xml.find_interface(root, nic))
        )

    def set_link(self, vm: str, nic: str, connected: bool) -> Operation[None]:
        here = self._locate(vm, "set_link")
        self._require(here, CHANGEABLE, "set_link")
        self._interface(here, nic, "set_link")

        def work() -> None:
            for inactive in (False, True) if here.active else (True,):
                element = xml.find_interface(here.tree(inactive=inactive), nic)
                if element is None:
                    continue
                for link in element.findall("link"):
                    element.remove(link)
                xml.child(element, "link", state="up" if connected else "down")
                flags = lv.VIR_DOMAIN_AFFECT_CONFIG if inactive else lv.VIR_DOMAIN_AFFECT_LIVE
                here.dom.updateDeviceFlags(xml.text(element), flags)

        return self._start("set_link", here, work)

    def _interface(self, here: Located, nic: str, operation: str) -> ET.Element:
        with self._guard(operation, here):
            element = xml.find_interface(here.tree(), nic)
        if element is None:
            raise NotFound(f"no NIC {nic!r}", operation=operation, vm=here.vm, host=here.host)
        return element
