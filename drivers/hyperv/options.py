"""The options of a Hyper-V target in a lab file, checked before any host is contacted."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, ValidationError

from conformance.errors import LabFileError
from conformance.lab.inventory import Target
from drivers.hyperv.transport.settings import Secret, WinrmSettings, check_files, password


class Options(WinrmSettings):
    """`[target.options]`: those of WinRM, and the driver's own."""

    vlans: dict[str, int] = Field(default={}, description="access VLAN by the lab name of a network")
    guard: Literal["refuse", "mac"] = Field(
        default="refuse",
        description="anti-spoofing: refused, since Hyper-V guards no IP addresses, or of MACs, DHCP and routers only",
    )
    smbios_uuid: Literal["auto", "plain", "swapped"] = Field(
        default="auto", description="byte order of the UUID that a guest shows; auto: swapped in generation 1"
    )
    call_seconds: float = Field(default=60.0, gt=0, description="for one call to a host; what takes longer is a job")


def parse(target: Target) -> Options:
    """The options of `target`, environment variables in its endpoints put in; raises `LabFileError` with all wrong."""
    given = dict(target.options)
    endpoints = given.get("endpoints")
    if isinstance(endpoints, dict):
        given["endpoints"] = {host: os.path.expandvars(str(url)) for host, url in endpoints.items()}
    try:
        options = Options.model_validate(given)
    except ValidationError as error:
        # without the offending values: somebody may have written a password where none belongs
        raise LabFileError(
            f"options of target {target.slug}:\n"
            + "\n".join(f"  {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()),
            hint="see docs/drivers/hyperv.md",
        ) from None
    missing = [name for name in target.hosts if name not in options.endpoints]
    if missing:
        raise LabFileError(
            f"options of target {target.slug}: no endpoint for {', '.join(missing)}",
            hint='endpoints = { host = "https://host.example:5986/wsman" }',
        )
    check_files(options)
    return options


def secret(options: Options) -> Secret:
    """The password, read from where the options say; raises `LabFileError`."""
    return password(options)
