"""Clones: a new VM round full copies of the disks, under a new identity."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from conformance.driver import Operation
from conformance.errors import DriverError, InvalidRequest
from conformance.model import NicSpec, VmSpec
from drivers.hyperv import naming
from drivers.hyperv.base import OFF, Located, listed
from drivers.hyperv.create import Plan
from drivers.hyperv.nics import FIELDS, Nics
from drivers.hyperv.operations import Steps
from drivers.hyperv.transport.base import Command


@dataclass(frozen=True, slots=True)
class Source:
    """What is copied: serials with the paths that show their content now; volumes stay with the source."""

    here: Located
    disks: dict[str, str]


class CloneVm(Nics):
    """The facet Clone. Export-VM would take attached volumes along, so the disks are copied one by one."""

    def clone(self, vm: str, name: str, macs: Sequence[str]) -> Operation[str]:
        here = self._locate(vm, "clone")
        self._require(here, OFF, "clone")
        self._idle(here, "clone")
        naming.check_name(name, "clone")
        adapters = self._vm_ask(here, "clone", Command("Get-VMNetworkAdapter"), select=(*FIELDS, "MacAddressSpoofing"))
        if len(macs) != len(adapters):
            raise InvalidRequest("the clone needs one MAC a NIC of the source", operation="clone", vm=vm)
        guarded = self._options.guard == "mac"
        nics = tuple(
            NicSpec(self._network(row), mac, guarded and str(row["MacAddressSpoofing"]) == "Off")
            for row, mac in zip(adapters, macs, strict=True)
        )
        for nic in nics:
            self._switch(nic, "clone")
        self._check_free(name)
        drives = self._vm_ask(here, "clone", Command("Get-VMHardDiskDrive"), select=("Path",))
        paths = [str(path) for row in drives for path in listed(row["Path"])]
        disks = {naming.serial_of(path): path for path in paths if naming.parse_volume_file(path) is None}
        place = self._storage_of(here.folder)
        image = self._lab.images[0]
        spec = VmSpec(
            name=name,
            image=image.name,
            vcpus=int(here.row["ProcessorCount"]),
            memory_mib=int(here.row["MemoryStartup"]) >> 20,
            nics=nics,
        )
        plan = Plan(spec, here.host, image, place or self._storage("", "clone"), int(here.row["Generation"]))
        return self._run("clone", vm, self._cloning(Source(here, disks), plan))

    def _cloning(self, source: Source, plan: Plan) -> Steps[str]:
        try:
            self._ask(plan.host, Command("New-Item", {"Path": plan.folder, "ItemType": "Directory"}))
            for serial, path in source.disks.items():
                yield from self._copy_disk(plan.host, path, plan.disk(serial), serial)
            yield from self._identified(plan.host, {plan.disk(serial): serial for serial in source.disks})
            return self._assemble(plan, list(source.disks))
        except BaseException:
            with suppress(DriverError):
                self._remove_name(plan.host, plan.spec.name)
            raise
