"""Ways to a Hyper-V host: WinRM shells by pywinrm (the default) and runspace pools by pypsrp, behind one interface."""

from drivers.hyperv.transport.base import Command, JsonValue, RemoteError, Result, Script, Step, Transport

__all__ = ["Command", "JsonValue", "RemoteError", "Result", "Script", "Step", "Transport"]
