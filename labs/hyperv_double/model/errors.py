"""Error records as the Hyper-V module and PowerShell write them.

The module puts the HRESULT of the failed job in parentheses into its message; its own exception's HRESULT is generic,
0x80131500 (COR_E_EXCEPTION). Codes are from winerror.h.
"""

from __future__ import annotations

from collections.abc import Mapping

from labs.hyperv_double.engine import ErrorRecord
from labs.simulated.world.errors import HypervisorError

GENERIC = 0x80131500

CODES: Mapping[str, tuple[int, str, str]] = {
    "no-space": (0x80070070, "OperationFailed", "NotSpecified"),
    "no-memory": (0x8007000E, "OutOfMemory", "ResourceUnavailable"),
    "in-use": (0x80070020, "ObjectInUse", "ResourceBusy"),
    "exists": (0x80070050, "OperationFailed", "NotSpecified"),
    "no-file": (0x80070002, "OperationFailed", "NotSpecified"),
    "no-path": (0x80070003, "OperationFailed", "NotSpecified"),
    "bad-image": (0xC03A0014, "OperationFailed", "NotSpecified"),
    "unreachable": (0x800706BA, "OperationFailed", "NotSpecified"),
    "link-lost": (0x80072745, "OperationFailed", "NotSpecified"),
    "peer-died": (0x8007274C, "OperationFailed", "NotSpecified"),
    "aborted": (0x800704C7, "OperationStopped", "OperationStopped"),
    "no-credentials": (0x8009030E, "OperationFailed", "NotSpecified"),
    "guest-refused": (0x80070015, "OperationFailed", "NotSpecified"),
    "busy": (0, "InvalidState", "InvalidOperation"),
    "bad-state": (0, "InvalidState", "InvalidOperation"),
    "bad-request": (0, "InvalidParameter", "InvalidArgument"),
    "no-domain": (0, "ObjectNotFound", "ObjectNotFound"),
    "no-snapshot": (0, "ObjectNotFound", "ObjectNotFound"),
    "no-nic": (0, "ObjectNotFound", "ObjectNotFound"),
}
"""What the world says, as (code in the message, error id, category)."""


class CmdletError(Exception):
    """Ends a pipeline."""

    def __init__(self, record: ErrorRecord) -> None:
        super().__init__(record.message)
        self.record = record


def command_class(cmdlet: str) -> str:
    """The class behind a cmdlet of the Hyper-V module, which stands behind the comma of an error id."""
    return f"Microsoft.HyperV.PowerShell.Commands.{cmdlet.replace('-', '')}"


def fail(
    cmdlet: str, id: str, category: str, message: str, *, hresult: int = GENERIC, exception: str = ""
) -> CmdletError:
    """An error of a Hyper-V cmdlet."""
    more = {"exception": exception} if exception else {}
    return CmdletError(ErrorRecord(message, f"{id},{command_class(cmdlet)}", category, hresult, **more))


def translated(cmdlet: str, error: HypervisorError) -> CmdletError:
    """An error of the world as the module words it."""
    code, id, category = CODES.get(error.code, (0x80004005, "OperationFailed", "NotSpecified"))
    shown = f" (0x{code:08X})" if code else ""
    return fail(cmdlet, id, category, f"The operation failed.\n{error.message}{shown}.")


def not_found(cmdlet: str, what: str) -> CmdletError:
    return fail(cmdlet, "InvalidParameter", "ObjectNotFound", f"Hyper-V was unable to find {what}.")


def invalid(cmdlet: str, message: str) -> CmdletError:
    return fail(cmdlet, "InvalidParameter", "InvalidArgument", message)


def no_such_path(cmdlet: str, path: str) -> CmdletError:
    """What the file cmdlets say of a path that is not there."""
    return CmdletError(
        ErrorRecord(
            f"Cannot find path '{path}' because it does not exist.",
            f"PathNotFound,Microsoft.PowerShell.Commands.{cmdlet.replace('-', '')}Command",
            "ObjectNotFound",
            0x80131501,
            "System.Management.Automation.ItemNotFoundException",
        )
    )


def unknown_cmdlet(name: str) -> CmdletError:
    return CmdletError(
        ErrorRecord(
            f"The term '{name}' is not recognized as the name of a cmdlet, function, script file, or operable program.",
            "CommandNotFoundException",
            "ObjectNotFound",
            0x80131501,
            "System.Management.Automation.CommandNotFoundException",
        )
    )


def unknown_parameter(cmdlet: str, name: str) -> CmdletError:
    return CmdletError(
        ErrorRecord(
            f"A parameter cannot be found that matches parameter name '{name}'.",
            f"NamedParameterNotFound,{command_class(cmdlet)}",
            "InvalidArgument",
            0x80131501,
            "System.Management.Automation.ParameterBindingException",
        )
    )


def cim_error(cmdlet: str, message: str, id: str, category: str, hresult: int) -> CmdletError:
    return CmdletError(
        ErrorRecord(
            message,
            f"{id},Microsoft.Management.Infrastructure.CimCmdlets.{cmdlet.replace('-', '')}Command",
            category,
            hresult,
            "Microsoft.Management.Infrastructure.CimException",
        )
    )
