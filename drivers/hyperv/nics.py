"""NICs: hot-plug in generation 2, the cable as connecting to and disconnecting from the switch."""

from __future__ import annotations

from conformance.driver import Completed, Operation
from conformance.errors import DriverError, HypervisorFailure, NotFound, Unsupported
from conformance.model import NicSpec, PowerState, Progress
from drivers.hyperv import naming
from drivers.hyperv.base import OFF, Located, Row, Rows
from drivers.hyperv.create import ADAPTER, Create
from drivers.hyperv.operations import Steps
from drivers.hyperv.transport.base import Command

RUNNING = PowerState.RUNNING
FIELDS = ("Name", "MacAddress", "SwitchName", "Connected")


class Nics(Create):
    """The facet Nics. A NIC's id is its MAC."""

    def _adapters(self, here: Located, operation: str) -> Rows:
        return self._vm_ask(here, operation, Command("Get-VMNetworkAdapter"), select=FIELDS)

    def _adapter(self, here: Located, nic: str, operation: str) -> Row:
        for row in self._adapters(here, operation):
            if naming.our_mac(str(row["MacAddress"])) == nic:
                return row
        raise NotFound(f"no NIC {nic}", operation=operation, vm=here.vm, host=here.host)

    @staticmethod
    def _one(row: Row) -> list[Command]:
        """What goes from the VM to one of its adapters, by MAC."""
        return [
            Command("Get-VMNetworkAdapter"),
            Command("Where-Object", {"Property": "MacAddress", "EQ": True, "Value": str(row["MacAddress"])}),
        ]

    def _hot(self, here: Located, operation: str) -> None:
        if self._require(here, (RUNNING, *OFF), operation) is RUNNING and int(here.row["Generation"]) == 1:
            raise Unsupported(
                "a generation 1 VM takes and gives NICs only while it is off",
                capability="nic.hotplug",
                operation=operation,
                vm=here.vm,
            )
        self._idle(here, operation)

    def attach_nic(self, vm: str, nic: NicSpec) -> Operation[str]:
        here = self._locate(vm, "attach_nic")
        switch = self._switch(nic, "attach_nic")
        self._hot(here, "attach_nic")
        try:
            self._vm_ask(here, "attach_nic", *self._nic_commands(nic, switch))
        except DriverError:
            for row in self._adapters(here, "attach_nic"):
                if naming.our_mac(str(row["MacAddress"])) == nic.mac:
                    self._vm_ask(here, "attach_nic", *self._one(row), Command("Remove-VMNetworkAdapter"))
            raise
        return Completed(nic.mac)

    def detach_nic(self, vm: str, nic: str) -> Operation[None]:
        here = self._locate(vm, "detach_nic")
        row = self._adapter(here, nic, "detach_nic")
        self._hot(here, "detach_nic")
        return self._run("detach_nic", vm, self._detaching_nic(here, row))

    def _detaching_nic(self, here: Located, row: Row) -> Steps[None]:
        self._vm_ask(here, "detach_nic", *self._one(row), Command("Remove-VMNetworkAdapter"))
        while self._vm_ask(here, "detach_nic", *self._one(row), select=("MacAddress",)):
            yield Progress(0.5, "waiting for the guest to let go")

    def set_link(self, vm: str, nic: str, connected: bool) -> Operation[None]:
        here = self._locate(vm, "set_link")
        row = self._adapter(here, nic, "set_link")
        self._idle(here, "set_link")
        if bool(row["Connected"]) is connected:
            return Completed(None)
        if connected:
            switch = next((net.bridge for net in self._lab.networks if net.name == self._network(row)), None)
            if switch is None:
                raise HypervisorFailure("nothing says which switch the NIC was on", operation="set_link", vm=vm)
            self._vm_ask(here, "set_link", *self._one(row), Command("Connect-VMNetworkAdapter", {"SwitchName": switch}))
        else:
            self._vm_ask(here, "set_link", *self._one(row), Command("Disconnect-VMNetworkAdapter"))
        return Completed(None)

    def _network(self, row: Row) -> str:
        """The lab name of a NIC's network: by its adapter's name, which outlasts a disconnection, where that agrees."""
        named, switch = str(row["Name"]).removeprefix(ADAPTER), str(row["SwitchName"] or "")
        bridges = {net.name: net.bridge for net in self._lab.networks}
        if named in bridges and switch in ("", bridges[named]):
            return named
        return next((name for name, bridge in bridges.items() if bridge == switch), switch)
