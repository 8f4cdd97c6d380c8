"""Xen, through libvirt's libxl driver: three types of guests as data, and all that libxl does in another way or not."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

from conformance.driver import LIVE, Operation
from conformance.errors import DriverError, InvalidRequest, NotFound, Unsupported
from conformance.lab.inventory import Image, LabInventory, Target
from conformance.model import Capability, Declared, Finding, MigrateOptions, NicSpec, PowerState, SnapshotState, VmSpec
from conformance.shells.shell import open_shell
from conformance.waiting import WaitTimeout, until
from drivers.libvirt import naming, options, storage, xml
from drivers.libvirt.base import Located
from drivers.libvirt.binding import lv
from drivers.libvirt.connection import Hosts
from drivers.libvirt.devices import UNPLUG_SECONDS
from drivers.libvirt.driver import CONSOLE_BYTES, LibvirtDriver
from drivers.libvirt.errors import translated
from drivers.libvirt.flavour import Flavour
from drivers.libvirt.kvm import SHARED
from drivers.libvirt.migration import Move
from drivers.libvirt.toolstack import Toolstack
from drivers.libvirt.watch import Watch
from drivers.libvirt.xen_migration import Transfer, Way, mend

_PV = Flavour(
    name="Xen",
    version_parts=2,  # libxl tells of 4.17.5 that it is 4.17, and what is behind that as text
    os_type="xen",
    domain_types={"xen": "xen"},
    machine="xenpv",
    direct_only=True,
    features=(),
    # the same time stamp counter as the host's: emulating it costs much, and a guest that is entered by PVH hangs
    # where the hypervisor itself is emulated ("SVM Insn len emulation failed")
    timers={"tsc": "native"},
    disk_bus="xen",
    disk_prefix="xvd",
    disk_tuning=False,
    nic_model="netfront",
    nic_rom=True,
    balloon_model="xen",
    usb=True,
    serial=False,
    consoles=("xen",),
    # `control/shutdown` in the store, which the guest's kernel acts on. The call ends when that has said so; a second
    # one waits a minute for what a kernel on its way down does not say any more, and fails
    shutdown_flags=("VIR_DOMAIN_SHUTDOWN_PARAVIRT",),
    ask_again=False,
    undefine_flags=("VIR_DOMAIN_UNDEFINE_MANAGED_SAVE",),
    migrate_flags=("VIR_MIGRATE_LIVE", "VIR_MIGRATE_PERSIST_DEST", "VIR_MIGRATE_UNDEFINE_SOURCE"),
    agent_channel=False,
    panic_model="",
    direct_kernel_args="console=hvc0",
    emulated_cache_mib=0,
    block_info=False,
    snapshots=False,
    job_progress=False,
    offline_migration=False,
    vcpu_unplug=True,
    # HVM_MAX_VCPUS of Xen's public headers; libvirt tells the host's own number, which binds no guest
    max_vcpus=128,
    capabilities={
        Capability.PAUSE: ("driver", ""),
        Capability.SUSPEND: ("driver", "the state file lies on the host; the VM cannot move until it is started"),
        Capability.CLONE: ("state", "of a stopped VM"),
        Capability.RESIZE_COLD: ("state", "of a stopped VM"),
        Capability.RESIZE_HOT_VCPU: ("state", "up to max_vcpus, and down"),
        Capability.RESIZE_DISK: ("state", "of a stopped VM"),
        Capability.VOLUME_HOTPLUG: ("driver", ""),
        Capability.MIGRATE_LIVE: ("host", SHARED),
        Capability.MIGRATE_COLD: ("host", SHARED),
        Capability.NIC_HOTPLUG: ("driver", ""),
        Capability.NETWORK_ISOLATION: ("host", "one bridge a network"),
    },
)

FLAVOURS: Mapping[str, Flavour] = {
    "pv": _PV,
    "pvh": replace(_PV, os_type="xenpvh", machine="xenpvh"),
    "hvm": replace(
        _PV,
        os_type="hvm",
        machine="xenfv",
        direct_only=False,
        # of "xvda" to "xvdd" libxl makes IDE disks, which a BIOS reads word by word, and before others; the adapter of
        # this one does DMA. The guest's kernel has it as a paravirtual disk all the same
        boot_bus="scsi",
        boot_dev="sda",
        second_disk=4,
        bzimage=True,  # Xen's QEMU enters it by a boot loader in a ROM: an ELF kernel is "too old to load a ram disk"
        features=("acpi", "apic"),
        serial=True,
        serial_log=False,
        consoles=(),  # libxl gives it the paravirtual one as well
    ),
}
"""By the target's option `guest_type`."""


class XenDriver(LibvirtDriver):
    """Xen hosts through libvirt, one connection a host. What it overrides is what libxl refuses or does otherwise."""

    name: ClassVar[str] = "xen"
    option_names: ClassVar[frozenset[str]] = frozenset(options.XenOptions.model_fields)
    options_kind: ClassVar[type[options.Options]] = options.XenOptions
    _options: options.XenOptions

    @classmethod
    def flavour_for(cls, parsed: options.Options) -> Flavour:
        assert isinstance(parsed, options.XenOptions)
        flavour = FLAVOURS[parsed.guest_type]
        if not parsed.xl:
            return flavour
        return replace(flavour, capabilities={**flavour.capabilities, Capability.MIGRATE_ABORT: ("host", "in dom0")})

    def __init__(
        self, lab: LabInventory, target: Target, options: options.XenOptions, hosts: Hosts, flavour: Flavour
    ) -> None:
        super().__init__(lab, target, options, hosts, flavour)
        shells = {host: open_shell(spec) for host, spec in options.xl.items()}
        self._toolstack = Toolstack(shells) if shells else None
        self._powering_on = {host: threading.Lock() for host in hosts.names}

    def _disconnect(self) -> None:
        super()._disconnect()
        if self._toolstack is not None:
            self._toolstack.close()

    def capabilities(self) -> Mapping[Capability, Declared]:
        offered = dict(super().capabilities())
        offered.pop(Capability.MIGRATE_IPV6, None)
        if self._options.console_logs:
            note = f"xenconsoled logs guests to {self._options.console_logs}"
            offered[Capability.CONSOLE_LOG] = Declared(Capability.CONSOLE_LOG, "host", note)
        return offered

    def diagnose(self) -> Sequence[Finding]:
        """Whether there is a way into every dom0."""
        if self._toolstack is None:
            what = "no way into dom0: a migration cannot be aborted, nor one that failed be cleaned up after"
            return (Finding(what, ok=False, how="the option xl, see docs/drivers/xen.md", needed=False),)
        return tuple(self._diagnose(self._toolstack, host) for host in self._hosts.names)

    @staticmethod
    def _diagnose(toolstack: Toolstack, host: str) -> Finding:
        try:
            toolstack.check(host)
        except DriverError as error:
            return Finding(f"xl on {host}: {error.message}", ok=False, how=f"the shell of {host} in the option xl")
        return Finding(f"xl on {host}", ok=True)

    # what the host offers

    def _domain_type(self, conn: Any) -> str:
        """Raises `Unsupported` for a type of guest that the host cannot run, such as HVM without virtualization."""
        types = {item.text for item in ET.fromstring(conn.getCapabilities()).findall("guest/os_type")}
        if self._flavour.os_type not in types:
            raise Unsupported(
                f"the host runs no {self._options.guest_type} guests, only {', '.join(sorted(map(str, types)))}",
                capability=f"guest-type.{self._options.guest_type}",
                operation="create",
            )
        return super()._domain_type(conn)

    def _uefi_offered(self, conn: Any) -> bool:  # noqa: ARG002 - whatever the host has
        return False  # libxl knows no UEFI variables: what a guest writes is lost with its power

    # creating

    def _check_request(self, spec: VmSpec, image: Image) -> None:
        super()._check_request(spec, image)
        if self._flavour.direct_only:
            if spec.firmware is not None:
                raise Unsupported(capability=f"firmware.{spec.firmware}", operation="create", vm=spec.name)
            if self._direct(image) is None:
                raise InvalidRequest(
                    f"a {self._options.guest_type} guest is booted from a kernel; image {image.name} names none",
                    operation="create",
                    vm=spec.name,
                )

    def _nic(self, nic: NicSpec, operation: str) -> xml.Nic:
        if nic.anti_spoof:  # libxl takes the filter from the XML and never makes it
            raise Unsupported(capability=Capability.ANTI_SPOOF, operation=operation)
        return super()._nic(nic, operation)

    # power

    def _power_on(self, here: Located) -> None:
        """One at a time on a host: libxl gives a device model ten seconds to answer, and several that start together
        on few processors take longer."""
        with self._powering_on[here.host]:
            super()._power_on(here)

    def _ask_machine(self, here: Located) -> None:
        here.dom.info()  # asks libxl

    def _check_state_file(self, here: Located) -> None:
        """libxl reads the file's head itself, and fails where it is damaged."""

    # snapshots: libxl has none, and a state file without the disks of the same instant would be none

    def snapshot(
        self, vm: str, name: str, *, memory: bool = False, quiesce: bool = False, exclude: Sequence[str] = ()
    ) -> Operation[str]:
        here = self._locate(vm, "snapshot")
        asked = {
            Capability.SNAPSHOT_MEMORY: memory,
            Capability.SNAPSHOT_QUIESCE: quiesce,
            Capability.SNAPSHOT_EXCLUDE_DISK: bool(exclude),
        }
        capability = next((key for key, wanted in asked.items() if wanted), Capability.SNAPSHOT_DISK)
        raise here.unsupported(capability, "snapshot", f"libxl takes no snapshots ({name!r})")

    def snapshots(self, vm: str) -> Sequence[SnapshotState]:
        self._locate(vm, "snapshots")
        return ()

    def _snapshot(self, here: Located, id: str, operation: str) -> Any:
        raise NotFound(f"no snapshot {id!r}", operation=operation, vm=here.vm, host=here.host)

    # devices

    def _unplug_live(self, here: Located, operation: str, element: str, there: Callable[[], bool]) -> None:
        """libxl ends when the host's half is gone. The guest's kernel then gives up its watch of that, and the device.

        Nothing later can be seen from the host, and that only where the store counts watches. From there the guest's
        kernel has a few milliseconds to go, less than it takes to tell of it.
        """
        tools, id = self._toolstack, here.dom.ID()
        before = tools.watches(here.host, id) if tools is not None else None
        super()._unplug_live(here, operation, element, there)
        if tools is not None and before is not None:

            def let_go() -> bool:
                left = tools.watches(here.host, id)
                return left is None or left < before

            # of a guest that begins to watch something else meanwhile nothing can be told
            with suppress(WaitTimeout):
                until("the guest's kernel to let go of the device", let_go, seconds=UNPLUG_SECONDS)

    def set_link(self, vm: str, nic: str, connected: bool) -> Operation[None]:  # noqa: ARG002 - neither is possible
        here = self._locate(vm, "set_link")
        raise here.unsupported(Capability.NIC_LINK_STATE, "set_link")

    def resize_disk(self, vm: str, serial: str, size_bytes: int) -> Operation[None]:
        here = self._locate(vm, "resize_disk")
        with self._guard("resize_disk", here):
            if here.active:
                why = "libxl does not tell a machine that a disk has grown"
                raise here.unsupported(Capability.RESIZE_DISK_ONLINE, "resize_disk", why)
        return super().resize_disk(vm, serial, size_bytes)

    # migration

    def migrate(self, vm: str, host: str, options: MigrateOptions = LIVE) -> Operation[None]:
        asked = {
            Capability.MIGRATE_POSTCOPY: options.postcopy,
            Capability.MIGRATE_IPV6: options.uri_family == 6,  # libxl writes the address into a URI without brackets
            Capability.MIGRATE_LIVE_STORAGE: options.live and options.copy_storage,
        }
        here = self._locate(vm, "migrate")
        for capability, wanted in asked.items():
            if wanted:
                raise here.unsupported(capability, "migrate")
        states = (PowerState.RUNNING, PowerState.PAUSED)
        if options.live and self._require(here, states, "migrate") is PowerState.PAUSED:
            why = "the guest's kernel takes part in a migration; libxl waits for one that is paused, and gives up"
            raise here.unsupported(Capability.MIGRATE_PAUSED, "migrate", why)
        return super().migrate(vm, host, options)

    def _plan(self, here: Located, host: str, options: MigrateOptions) -> Move:
        move = super()._plan(here, host, options)
        with self._guard("migrate", here):
            self._domain_type(move.conn)
            source, target = here.conn.getVersion(), move.conn.getVersion()
        if options.live and target < source:
            raise Unsupported(
                f"Xen moves guests to hosts of its own version or a newer one; {here.host} has "
                f"{self._hypervisor_version(source)}, {host} has {self._hypervisor_version(target)}",
                capability=Capability.MIGRATE_LIVE,
                operation="migrate",
                vm=here.vm,
                host=host,
            )
        if self._toolstack is None or not options.live:
            return move
        self._toolstack.reach((here.host, host))
        return replace(move, records=self._toolstack.records(host))

    def _watch(self, move: Move) -> Watch:
        if self._toolstack is None or not move.options.live:
            return super()._watch(move)
        here = move.here
        with self._guard("migrate", here):
            way = Way(here.vm, here.host, move.host, here.dom.info()[1] << 10)
            return Transfer(self._toolstack, way, here.dom, stall_seconds=self._options.migrate.stall_seconds)

    def _mend_source(self, move: Move) -> None:
        if self._toolstack is not None:
            mend(self._toolstack, move.here)

    def _migrate_flags(self, move: Move) -> int:  # noqa: ARG002 - libxl knows no others
        return self._flavour.flags(self._flavour.migrate_flags)

    def _migrate_params(self, move: Move) -> dict[str, Any]:
        address = self._migrate_address(move)
        return {lv.VIR_MIGRATE_PARAM_URI: f"tcp://{address}"} if address else {}

    def _settle(self, move: Move) -> None:
        super()._settle(move)
        self._forget_console(move.here.host, move.here.dom.name())

    def _clean_target(self, move: Move, made: list[str]) -> None:
        super()._clean_target(move, made)
        if self._lookup(move.host, move.here.vm) is None:
            self._forget_console(move.host, move.here.dom.name())
            if self._toolstack is not None and move.options.live:
                self._toolstack.clean(move.host, move.here.vm, move.records)

    def addresses(self, vm: str) -> Sequence[str]:
        here = self._locate(vm, "addresses")
        self._require(here, (PowerState.RUNNING, PowerState.PAUSED), "addresses")
        return ()  # libxl has neither an agent nor an eye on the network

    # the console: what xenconsoled writes in dom0, in a file named after the domain

    def console_log(self, vm: str) -> bytes:
        here = self._locate(vm, "console_log")
        if not self._options.console_logs:
            raise here.unsupported(Capability.CONSOLE_LOG, "console_log")
        with self._guard("console_log", here):
            try:
                return storage.read(here.conn, self._console_path(here.dom.name()), last=CONSOLE_BYTES)
            except lv.libvirtError as error:
                if error.get_error_code() == lv.VIR_ERR_NO_STORAGE_VOL:
                    return b""  # it was never started here
                raise

    def _console_path(self, domain: str) -> str:
        return f"{self._options.console_logs}/guest-{domain}.log"

    def _forget_console(self, host: str, domain: str) -> None:
        if self._options.console_logs:
            storage.delete(self._hosts.get(host), self._console_path(domain))

    def _remove(self, here: Located) -> None:
        domain = here.dom.name()
        super()._remove(here)
        self._forget_console(here.host, domain)

    def reclaim(self, name: str) -> None:
        super().reclaim(name)
        for host in self._hosts.names:
            with translated(operation="reclaim", vm=name, host=host):
                self._forget_console(host, naming.libvirt_name(name))
