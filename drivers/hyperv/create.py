"""Making and removing VMs: everything is checked before anything is made, and what fails is undone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from xml.sax.saxutils import escape

from conformance.driver import Operation
from conformance.errors import (
    DriverError,
    Exists,
    HostUnreachable,
    HypervisorFailure,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unsupported,
)
from conformance.lab.inventory import Image, Storage
from conformance.model import Firmware, NicSpec, PowerState, Progress, VmSpec
from drivers.hyperv import naming
from drivers.hyperv.base import Base, Located, join, root
from drivers.hyperv.console import pipe_name
from drivers.hyperv.operations import Steps
from drivers.hyperv.transport.base import Command, JsonValue

_SETTING = (
    '<INSTANCE CLASSNAME="Msvm_VirtualHardDiskSettingData">'
    '<PROPERTY NAME="Path" TYPE="string"><VALUE>{path}</VALUE></PROPERTY>'
    '<PROPERTY NAME="VirtualDiskId" TYPE="string"><VALUE>{id}</VALUE></PROPERTY></INSTANCE>'
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A VM to be made, checked."""

    spec: VmSpec
    host: str
    image: Image
    place: Storage
    generation: int

    @property
    def key(self) -> str:
        return naming.vm_folder(self.spec.name)

    @property
    def folder(self) -> str:
        return join(root(self.place), self.key)

    def disk(self, serial: str) -> str:
        return join(self.folder, f"{serial}.vhdx")


ADAPTER = "hvc "
"""How an adapter of ours is called, before the lab name of its network: one that is disconnected forgets its switch."""

OFF_OR_SAVED = (PowerState.STOPPED, PowerState.CRASHED, PowerState.SUSPENDED)


class Create(Base):
    """create, delete, reclaim, and what they share with clone."""

    def create(self, spec: VmSpec) -> Operation[str]:
        plan = self._plan(spec)
        self._check_free(spec.name)
        return self._run("create", None, self._creation(plan))

    # checks, before anything is made

    def _plan(self, spec: VmSpec) -> Plan:
        def refuse(why: str) -> InvalidRequest:
            return InvalidRequest(why, operation="create", vm=spec.name)

        naming.check_name(spec.name, "create")
        host = spec.host or self._target.hosts[0]
        if host not in self._hosts.names:
            raise refuse(f"no host {host!r}")
        image = next((item for item in self._lab.images if item.name == spec.image), None)
        if image is None:
            raise refuse(f"no image {spec.image!r}")
        if image.format != "vhdx":
            raise refuse(f"the image {image.name} is {image.format}; Hyper-V boots VHDX")
        if not image.boot_loader:
            raise refuse(f"the image {image.name} has no boot loader; Hyper-V boots no kernel by itself")
        if spec.vcpus < 1 or spec.memory_mib < 32:
            raise refuse("a VM needs a vCPU and 32 MiB")
        if spec.memory_mib % 2:
            raise refuse("Hyper-V gives memory in units of 2 MiB")
        if spec.root_disk_bytes and spec.root_disk_bytes < image.size_bytes:
            raise refuse(f"a root disk of {spec.root_disk_bytes} bytes cannot hold an image of {image.size_bytes}")
        serials = [naming.ROOT, *(disk.serial for disk in spec.disks)]
        for serial in serials:
            naming.check_serial(serial, "create")
        if len({serial.casefold() for serial in serials}) != len(serials):
            raise refuse(f"serials are not unique: {', '.join(serials)}")
        for size in (spec.root_disk_bytes, *(disk.size_bytes for disk in spec.disks)):
            if size % 4096 or size < 0:
                raise refuse(f"{size} bytes is not a whole number of 4 KiB sectors")
        if any(disk.size_bytes == 0 for disk in spec.disks):
            raise refuse("a disk has no size")
        for nic in spec.nics:
            self._switch(nic, "create")
        if len({nic.mac for nic in spec.nics}) != len(spec.nics):
            raise refuse("two NICs have one MAC")
        generation = 2 if (spec.firmware or image.firmware) is Firmware.UEFI else 1
        self._check_capacity(host, "create", spec.name, memory_mib=spec.memory_mib, vcpus=spec.vcpus)
        self._check_image(host, image)
        return Plan(spec, host, image, self._storage(spec.storage, "create"), generation)

    def _switch(self, nic: NicSpec, operation: str) -> str:
        """The switch of a NIC's network; raises `InvalidRequest` for an unknown network or a bad MAC."""
        naming.check_mac(nic.mac, operation)
        if nic.anti_spoof and self._options.guard == "refuse":
            raise Unsupported(
                "Hyper-V keeps a port to its MAC, not to its IP addresses: this would be half a guard",
                capability="port-security.anti-spoof",
                operation=operation,
            )
        for network in self._lab.networks:
            if network.name == nic.network:
                return network.bridge
        raise InvalidRequest(f"no network {nic.network!r}", operation=operation)

    def _check_free(self, name: str) -> None:
        for here in self._all():
            if here.name == name:
                raise Exists(f"a VM with this name is on {here.host}", operation="create", vm=name, host=here.host)

    def _check_capacity(self, host: str, operation: str, vm: str, *, memory_mib: int = 0, vcpus: int = 0) -> None:
        """Raises `QuotaExceeded` for what the host could not hold even if it were empty."""

        def ask() -> tuple[int, int]:
            with self._about(operation, vm, host):
                (row,) = self._ask(host, Command("Get-VMHost"), select=("MemoryCapacity", "LogicalProcessorCount"))
            return int(row["MemoryCapacity"]) >> 20, int(row["LogicalProcessorCount"])

        memory, cpus = self._hosts.once(host, "capacity", ask)
        limits = f"{host} has {memory} MiB and {cpus} logical processors"
        if memory_mib > (self._lab.host(host).memory_mib or memory) or vcpus > cpus:
            raise QuotaExceeded(limits, operation=operation, vm=vm, host=host)

    def _check_image(self, host: str, image: Image) -> None:
        """The image's file is the one that the lab file means: format, size and hash, read once a host."""
        path = str(image.path)

        def ask() -> str:
            try:
                (disk,) = self._ask(host, Command("Get-VHD", {"Path": path}), select=("VhdFormat", "Size"))
                (file,) = self._ask(host, Command("Get-FileHash", {"LiteralPath": path}), select=("Hash",))
            except HostUnreachable:
                raise
            except DriverError as error:
                return f"the image {image.name} cannot be used: {error.message}"
            seen = (str(disk["VhdFormat"]).lower(), int(disk["Size"]), str(file["Hash"]).lower())
            wanted = (image.format, image.size_bytes, image.sha256)
            return "" if seen == wanted else f"the image {image.name} is not as the lab file says: {seen}"

        wrong = self._hosts.once(host, f"image {path}", ask)
        if wrong:
            raise InvalidRequest(wrong, operation="create", host=host)

    # making

    def _creation(self, plan: Plan) -> Steps[str]:
        spec, host = plan.spec, plan.host
        try:
            self._ask(host, Command("New-Item", {"Path": plan.folder, "ItemType": "Directory"}))
            yield from self._copy_disk(host, str(plan.image.path), plan.disk(naming.ROOT), naming.ROOT)
            if spec.root_disk_bytes > plan.image.size_bytes:
                self._ask(
                    host, Command("Resize-VHD", {"Path": plan.disk(naming.ROOT), "SizeBytes": spec.root_disk_bytes})
                )
            for disk in spec.disks:
                self._new_disk(host, plan.disk(disk.serial), disk.size_bytes, disk.serial)
            serials = [naming.ROOT, *(disk.serial for disk in spec.disks)]
            yield from self._identified(host, {plan.disk(serial): serial for serial in serials})
            return self._assemble(plan, serials)
        except BaseException:
            # GeneratorExit too: whoever waited has given up, and nothing may be left
            with suppress(DriverError):
                self._remove_name(host, spec.name)
            raise

    def _copy_disk(self, host: str, source: str, path: str, serial: str) -> Steps[None]:
        """A full copy of what a disk shows, as a dynamic VHDX."""
        yield from self._job(
            host,
            Command("Convert-VHD", {"Path": source, "DestinationPath": path, "VHDType": "Dynamic"}),
            phase="copying the image",
        )
        self._identify(host, path, serial)

    def _new_disk(self, host: str, path: str, size_bytes: int, serial: str) -> None:
        self._ask(host, Command("New-VHD", {"Path": path, "SizeBytes": size_bytes, "Dynamic": True}))
        self._identify(host, path, serial)

    def _identify(self, host: str, path: str, serial: str) -> None:
        """Give a disk the identifier that shows its serial; no cmdlet can, this WMI method does."""
        setting = _SETTING.format(path=escape(path), id=naming.disk_id(serial).upper())
        value = self._cim(
            host,
            {"ClassName": "Msvm_ImageManagementService"},
            "SetVirtualHardDiskSettingData",
            {"VirtualDiskSettingData": setting},
        )
        if value not in (0, 4096):  # 4096: a job does it, and `_identified` sees its end
            raise HypervisorFailure(f"the identifier of {path} cannot be set", host=host, code=value)

    def _identified(self, host: str, serials: dict[str, str]) -> Steps[None]:
        """Wait until the disks at these paths have the identifiers of these serials."""
        wanted = {path.casefold(): naming.disk_id(serial) for path, serial in serials.items()}
        while True:
            paths: list[JsonValue] = list(serials)
            seen = self._ask(host, Command("Get-VHD", {"Path": paths}), select=("Path", "DiskIdentifier"))
            if {str(row["Path"]).casefold(): str(row["DiskIdentifier"]).lower() for row in seen} == wanted:
                return
            yield Progress(0.6, "setting disk identifiers")

    def _assemble(self, plan: Plan, serials: list[str]) -> str:
        """Put the VM together round its disks; the id is Hyper-V's."""
        spec, host = plan.spec, plan.host
        (made,) = self._ask(
            host,
            Command(
                "New-VM",
                {
                    "Name": plan.key,
                    "Path": root(plan.place),
                    "Generation": plan.generation,
                    "MemoryStartupBytes": spec.memory_mib << 20,
                    "NoVHD": True,
                },
            ),
            select=("Id",),
        )
        vm: dict[str, JsonValue] = {"Id": str(made["Id"])}

        def pipe(*commands: Command) -> None:
            self._ask(host, Command("Get-VM", vm), *commands)

        # first its mark: from here on `reclaim` and `list` know whose it is
        settings: dict[str, JsonValue] = {
            "Notes": naming.notes(self._target.slug, spec.name),
            "ProcessorCount": spec.vcpus,
            "StaticMemory": True,
            "CheckpointType": "Production",
            "AutomaticStartAction": "Nothing",
            "AutomaticStopAction": "TurnOff",
        }
        try:
            pipe(Command("Set-VM", {**settings, "AutomaticCheckpointsEnabled": False}))
        except Unsupported:
            # Windows Server 2016 has neither the checkpoints nor the parameter, whatever its page says:
            # https://github.com/hashicorp/vagrant/issues/10251
            pipe(Command("Set-VM", settings))
        # New-VM adds a NIC that nobody asked for
        pipe(Command("Get-VMNetworkAdapter"), Command("Remove-VMNetworkAdapter"))
        if plan.generation == 2:
            pipe(Command("Set-VMFirmware", {"EnableSecureBoot": "Off"}))
        for number, serial in enumerate(serials):
            # generation 1 boots from IDE; the order in which devices come is generation 2's boot order
            ide = plan.generation == 1 and number == 0
            where: dict[str, JsonValue] = {"ControllerType": "IDE" if ide else "SCSI"}
            if ide:
                where |= {"ControllerNumber": 0, "ControllerLocation": 0}
            pipe(Command("Add-VMHardDiskDrive", {"Path": plan.disk(serial), **where}))
        for nic in spec.nics:
            pipe(*self._nic_commands(nic, self._switch(nic, "create")))
        self._console_port(host, vm, plan.key)
        pipe(Command("Rename-VM", {"NewName": spec.name}))
        self._last[str(made["Id"])] = host
        return str(made["Id"])

    def _nic_commands(self, nic: NicSpec, switch: str) -> list[Command]:
        """What adds a NIC to the VM that comes in: on its switch, with its MAC, guard and VLAN."""
        guard = "On" if nic.anti_spoof else "Off"
        commands = [
            Command(
                "Add-VMNetworkAdapter",
                {
                    "Name": ADAPTER + nic.network,
                    "SwitchName": switch,
                    "StaticMacAddress": naming.host_mac(nic.mac),
                    "Passthru": True,
                },
            ),
            # Off is Hyper-V's own guess; a NIC that was not asked to be guarded lets everything out
            Command(
                "Set-VMNetworkAdapter",
                {
                    "MacAddressSpoofing": "Off" if nic.anti_spoof else "On",
                    "DhcpGuard": guard,
                    "RouterGuard": guard,
                    "Passthru": True,
                },
            ),
        ]
        if nic.network in self._options.vlans:
            commands.append(
                Command("Set-VMNetworkAdapterVlan", {"Access": True, "VlanId": self._options.vlans[nic.network]})
            )
        return commands

    def _console_port(self, host: str, vm: dict[str, JsonValue], key: str) -> None:
        """Lead the first serial port to a pipe of the VM's own."""
        self._ask(
            host,
            Command("Get-VM", vm),
            Command("Set-VMComPort", {"Number": 1, "Path": rf"\\.\pipe\{pipe_name(key)}"}),
        )

    # removing

    def delete(self, vm: str) -> Operation[None]:
        here = self._locate(vm, "delete")
        return self._run("delete", vm, self._deletion(here))

    def _deletion(self, here: Located) -> Steps[None]:
        if here.power is PowerState.TRANSIENT or "MigratingVirtualMachine" in here.at_work:
            self._idle(here, "delete")
            self._require(here, (), "delete")
        yield from self._removal(here)
        self._last.pop(here.vm, None)

    def _removal(self, here: Located) -> Steps[None]:
        """Cut the power, remove the VM, and then its folder; volumes keep what was written since a checkpoint."""
        if here.power in (PowerState.RUNNING, PowerState.PAUSED):
            try:
                self._vm_ask(here, "delete", Command("Stop-VM", {"TurnOff": True, "Force": True}))
            except DriverError:
                if self._again(here).power not in OFF_OR_SAVED:
                    raise
        if self._again(here).power is PowerState.SUSPENDED:
            self._vm_ask(here, "delete", Command("Remove-VMSavedState"))
        if self._volume_layers(here):
            self._vm_ask(
                here,
                "delete",
                Command("Get-VMSnapshot"),
                Command("Remove-VMSnapshot"),
            )
            yield from self._settled(here, "merging")
        self._vm_ask(here, "delete", Command("Remove-VM", {"Force": True}))
        self._remove_folder(here.host, here.folder)

    def _volume_layers(self, here: Located) -> bool:
        """Whether a checkpoint's layer lies on a volume."""
        drives = self._vm_ask(here, "delete", Command("Get-VMHardDiskDrive"), select=("Path",))
        paths = [str(row["Path"] or "") for row in drives]
        return any(naming.is_layer(path) and naming.parse_volume_file(path) for path in paths)

    def _remove_folder(self, host: str, folder: str) -> None:
        """Remove a folder that is a VM's of ours, and never another one."""
        if not folder.rpartition("\\")[2].startswith(naming.PREFIX):
            return
        with suppress(NotFound):
            self._ask(host, Command("Remove-Item", {"LiteralPath": folder, "Recurse": True, "Force": True}))

    def _remove_name(self, host: str, name: str) -> None:
        """Remove whatever is on a host under a VM's name, half-made or whole."""
        key = naming.vm_folder(name)
        rows = self._ask(host, Command("Get-VM"), select=("Id", "Name", "Notes"))
        mark = (self._target.slug, name)
        for row in rows:
            if row["Name"] == key or naming.parse_notes(row["Notes"]) == mark:
                here = self._lookup(host, str(row["Id"]), ours=False)
                if here is not None:
                    self._run("reclaim", here.vm, self._removal(here)).wait(self._hosts.deadline_s)
        for storage in self._lab.storages:
            self._remove_folder(host, join(root(storage), key))

    def reclaim(self, name: str) -> None:
        for host in self._hosts.names:
            with self._about("reclaim", name, host):
                self._remove_name(host, name)
