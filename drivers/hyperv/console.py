"""The serial console: a named pipe that a small script on the host copies to a file beside the VM.

Hyper-V keeps nothing of what a guest writes to a serial port, and a pipe takes one reader. So with every start of the
VM's worker process a reader is started on its host, outside of any WinRM shell, which would take it along; it ends with
the pipe. Source: https://learn.microsoft.com/powershell/module/hyper-v/set-vmcomport
"""

from __future__ import annotations

from contextlib import suppress

from conformance.errors import DriverError, HypervisorFailure, NotFound
from drivers.hyperv import scripts
from drivers.hyperv.base import Base, Located, join
from drivers.hyperv.transport.base import Command

LOG, SCRIPT = "console.log", "console.ps1"


def pipe_name(key: str) -> str:
    """The pipe of a VM, by the name of its folder."""
    return key


class ConsoleLog(Base):
    """The facet Console, and what has to follow a start for it."""

    def console_log(self, vm: str) -> bytes:
        here = self._locate(vm, "console_log")
        path = join(here.folder, LOG)
        try:
            with self._about("console_log", vm, here.host):
                rows = self._ask(
                    here.host, Command("Get-Content", {"LiteralPath": path, "Raw": True, "Encoding": "UTF8"})
                )
        except NotFound:
            return b""  # it was never started
        return "".join(str(row["Value"]) for row in rows).encode()

    def _console_begin(self, here: Located) -> None:
        """Start the reader. That it cannot be started is no reason to call a VM that runs not started."""
        key = here.folder.rpartition("\\")[2]
        script, log = join(here.folder, SCRIPT), join(here.folder, LOG)
        with suppress(DriverError):
            self._ask(here.host, Command("Set-Content", {"LiteralPath": script, "Value": scripts.text("console")}))
            made = self._ask(
                here.host,
                Command(
                    "Invoke-CimMethod",
                    {
                        "ClassName": "Win32_Process",
                        "MethodName": "Create",
                        "Arguments": {
                            "CommandLine": "powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass "
                            f'-File "{script}" -Pipe "{pipe_name(key)}" -Log "{log}"'
                        },
                    },
                ),
                select=("ReturnValue",),
            )
            if made[0]["ReturnValue"] != 0:
                raise HypervisorFailure(f"the console's reader was not started: {made[0]['ReturnValue']}")
