"""What `hvconform doctor --target` says of a Hyper-V target: one script a host, and a way out for each answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from conformance.errors import DriverError
from conformance.model import Finding
from drivers.hyperv.base import Row, root
from drivers.hyperv.migration import Migration
from drivers.hyperv.transport.base import JsonValue, Script

NEEDED: Mapping[str, Sequence[str]] = {
    "New-VM": ("Name", "Path", "Generation", "MemoryStartupBytes", "NoVHD"),
    "Set-VM": ("Notes", "ProcessorCount", "StaticMemory", "CheckpointType"),
    "Checkpoint-VM": ("SnapshotName", "AsJob", "Passthru"),
    "Restore-VMSnapshot": ("AsJob",),
    "Remove-VMSnapshot": ("AsJob",),
    "Remove-VMSavedState": (),
    "Move-VM": ("DestinationHost", "IncludeStorage", "DestinationStoragePath", "AsJob"),
    "Compare-VM": ("DestinationHost", "IncludeStorage"),
    "Convert-VHD": ("DestinationPath", "VHDType", "AsJob"),
    "Resize-VHD": ("SizeBytes",),
    "Set-VMNetworkAdapter": ("MacAddressSpoofing", "DhcpGuard", "RouterGuard"),
    "Set-VMNetworkAdapterVlan": ("Access", "VlanId"),
    "Set-VMComPort": ("Number", "Path"),
    "New-NetQosPolicy": ("LiveMigration", "ThrottleRateActionBitsPerSecond"),
}
"""What the driver cannot do without, by cmdlet; a test holds it against the table."""

WAYS: Mapping[str, tuple[str, bool, str]] = {
    "powershell": ("PowerShell {0}", True, "install Windows Management Framework 5.1"),
    "vmms": ("the service vmms is {0}", True, "Install-WindowsFeature -Name Hyper-V -IncludeManagementTools -Restart"),
    "cmdlets": ("cmdlets: {0}", True, "Install-WindowsFeature -Name Hyper-V-PowerShell; Windows Server 2016 or later"),
    "rights": (
        "this login may use Hyper-V",
        True,
        "add it to the local group Hyper-V Administrators; docs/labs/hyperv.md, the account",
    ),
    "version": ("makes VMs of configuration version {0}", True, "Get-VMHostSupportedVersion says what it takes"),
    "switch": ("switch {0}", True, "New-VMSwitch -Name {0} -NetAdapterName ...; or correct bridge in the lab file"),
    "folder": ("folder {0}", True, "New-Item -ItemType Directory; or correct path in the lab file"),
    "migration": ("live migration is enabled, by {0}", False, "Enable-VMMigration; Set-VMMigrationNetwork"),
    "link": ("takes a connection to {0}, port 6600", False, "Enable-NetFirewallRule for Hyper-V on the other host"),
}
"""For each check of the script: what it says, whether the driver needs it, and the way out."""


class Diagnose(Migration):
    """`conformance.driver.Diagnosis`."""

    def diagnose(self) -> Sequence[Finding]:
        found = [finding for host in self._hosts.names for finding in self._diagnose_host(host)]
        try:
            hindrance = self._hindrance()
        except DriverError as error:
            hindrance = f"cannot be told: {error}"
        if hindrance:
            found.append(Finding(f"migration: {hindrance}", False, "docs/labs/hyperv.md, delegation", needed=False))
        return found

    def _diagnose_host(self, host: str) -> list[Finding]:
        wanted: dict[str, JsonValue] = {name: list(names) for name, names in NEEDED.items()}
        script = Script(
            "doctor",
            {
                "Wanted": wanted,
                "Switches": list(dict.fromkeys(network.bridge for network in self._lab.networks)),
                "Folders": [root(storage) for storage in self._lab.storages],
                "Others": [self._address(name) for name in self._hosts.names if name != host],
            },
        )
        try:
            with self._about("diagnose", None, host):
                rows = self._hosts.ask(host, [script], ("Check", "Ok", "Detail"), 2).objects
        except DriverError as error:
            return [Finding(f"{host}: {error}", False, "docs/labs/hyperv.md")]
        return [self._finding(host, row) for row in rows]

    @staticmethod
    def _finding(host: str, row: Row) -> Finding:
        what, needed, how = WAYS[str(row["Check"])]
        detail = str(row["Detail"] or "")
        shown = what.format(detail).removesuffix(": ")
        return Finding(f"{host}: {shown}", bool(row["Ok"]), how.format(detail), needed)
