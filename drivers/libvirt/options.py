"""The options of a libvirt target in a lab file, checked before any host is contacted."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from conformance.errors import LabFileError
from conformance.lab.inventory import LocalShell, NamespaceShell, SshShell, Target


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _uri(text: str) -> str:
    parts = urlsplit(text)
    if not parts.scheme or (not text.startswith(f"{parts.scheme}:///") and not parts.hostname):
        raise ValueError("no libvirt URI, such as qemu+ssh://root@host/system")
    _ = parts.port  # raises where it is no number
    if parts.password is not None:
        raise ValueError("a password has no place in a URI: use an SSH key, a certificate, or user and password_env")
    return text


Uri = Annotated[str, AfterValidator(_uri)]


class MigrateSettings(_Strict):
    """How VMs migrate.

    `direct` has this process lead both daemons, so that its death cancels a migration; `p2p` has the source's daemon
    connect to the target's, so that the migration goes on without this process.
    """

    mode: Literal["direct", "p2p"] = "direct"
    uris: dict[str, Uri] = Field(default={}, description="for p2p: each host's URI as the other hosts see it")
    tls: bool = Field(default=False, description="encrypt; needs certificates in the hosts' /etc/pki/qemu")
    auto_converge: bool = Field(default=True, description="slow down a guest that writes faster than can be sent")
    stall_seconds: float = Field(default=15.0, gt=0, description="give up when nothing was sent for so long")


class Options(_Strict):
    """`[target.options]`."""

    uris: dict[str, Uri] = Field(description="libvirt URI by host name, such as qemu+ssh://root@host/system")
    user: str = ""
    password_env: str = Field(default="", description="environment variable with the password, for SASL")
    direct_kernel: bool = Field(default=False, description="boot an image's kernel and initrd without its boot loader")
    machine: str = Field(default="", description="machine type, such as q35")
    domain_type: str = Field(default="", description="kvm or qemu; empty: kvm where the host offers it")
    disk_cache: Literal["none", "directsync", "writethrough", "writeback"] = "none"
    migrate: MigrateSettings = MigrateSettings()


Dom0Shell = Annotated[LocalShell | NamespaceShell | SshShell, Field(discriminator="kind")]


class XenOptions(Options):
    """`[target.options]` of a Xen target."""

    guest_type: Literal["pv", "pvh", "hvm"] = "pvh"
    console_logs: str = Field(default="", description="folder of xenconsoled's logs in dom0, if it logs guests")
    xl: dict[str, Dom0Shell] = Field(
        default={},
        description="by host: where xl is run for what libvirt neither shows nor mends; none: libvirt alone",
    )


Kind = TypeVar("Kind", bound=Options)


def parse(target: Target, kind: type[Kind]) -> Kind:
    """The options of `target`; raises `LabFileError` with all that is wrong."""
    try:
        options = kind.model_validate(target.options)
    except ValidationError as error:
        raise LabFileError(
            f"options of target {target.slug}:\n"
            + "\n".join(
                f"  {'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}"
                for item in error.errors()
            ),
            hint="see docs/drivers/libvirt.md",
        ) from None
    missing = [name for name in target.hosts if name not in options.uris]
    if missing:
        raise LabFileError(
            f"options of target {target.slug}: no URI for {', '.join(missing)}",
            hint='uris = { host = "qemu+ssh://root@host/system" }',
        )
    if isinstance(options, XenOptions) and options.xl and (missing := [n for n in target.hosts if n not in options.xl]):
        raise LabFileError(
            f"options of target {target.slug}: no shell to run xl in on {', '.join(missing)}",
            hint='xl = { host = { kind = "ssh", address = "host.example" } } for every host, or none',
        )
    return options
