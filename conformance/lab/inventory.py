"""What a lab consists of: the model behind every lab file, typed by hand or written by a nested lab that came up.

A lab file is TOML and is checked whole before anything is contacted; every problem is reported at once, with its place
and the way out. Secrets are never in it: options that end in ``_file`` or ``_env`` say where to read them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from conformance.errors import LabFileError
from conformance.model import Evidence, Firmware

T = TypeVar("T")

SLUG = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
Slug = Annotated[str, Field(pattern=SLUG.pattern, max_length=40)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LocalShell(_Strict):
    """Commands run on this machine."""

    kind: Literal["local"] = "local"


class NamespaceShell(_Strict):
    """Commands run inside the namespaces of process `pid`: a host of a nested lab."""

    kind: Literal["namespace"] = "namespace"
    pid: int


class SshShell(_Strict):
    """Commands run over SSH. The key is a path; a password comes from the environment variable named."""

    kind: Literal["ssh"] = "ssh"
    address: str
    port: int = 22
    user: str = "root"
    key_file: Path | None = None
    password_env: str | None = None
    host_key: str | None = Field(None, description="the host's public key line; None trusts known_hosts only")
    netns: str = Field(default="", description="a network namespace there that `ip netns` knows, and commands run in")


class WinrmShell(_Strict):
    """Cmdlets run over WinRM, in a session of the probe's own. The password comes from the variable or file named."""

    kind: Literal["winrm"] = "winrm"
    url: str = Field(description="such as https://hv1.example:5986/wsman; $NAME is an environment variable")
    auth: Literal["ntlm", "kerberos", "credssp", "basic"] = "ntlm"
    user: str = ""
    password_env: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = Field(None, description="PEM file of the authority that signed the host's certificate")
    verify: bool = True


Shell = Annotated[LocalShell | NamespaceShell | SshShell | WinrmShell, Field(discriminator="kind")]


class Host(_Strict):
    """A hypervisor host and how its probe reaches it, which is never the driver's way."""

    name: Slug
    address: str = Field(description="management address, reachable from the other hosts")
    address6: str = ""
    shell: Shell = LocalShell()
    service: str = Field("", description="how the management daemon is restarted: a systemd unit or a command line")
    memory_mib: int = Field(0, description="what guests may use; 0: read from the host")


class Network(_Strict):
    """A guest network and the peer that stands in it."""

    name: Slug
    bridge: str = Field(description="bridge, port group or switch name on every host")
    ipv4: IPv4Network
    ipv6: IPv6Network | None = None
    gateway4: str = ""
    dns: str = ""
    mtu: int = 1500
    peer: Shell = Field(description="where the wire peer runs")
    peer_interface: str = Field(description="the peer's interface in this network")
    lease_file: Path | None = Field(None, description="dnsmasq's lease file as the peer sees it")


class Storage(_Strict):
    """A place for disks: a directory, at one path on every host."""

    name: Slug
    path: Path
    shared: bool = Field(description="the same files on every host")


class Image(_Strict):
    """A bootable guest image. `image_id` is baked in and shown by the guest; kernel and initrd allow direct boot.

    `bzimage` is the same kernel for hypervisors that load it as a PC boot loader does, and know no ELF file.
    """

    name: Slug
    path: Path
    format: Literal["raw", "qcow2", "vhdx", "vmdk"] = "qcow2"
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0, description="virtual size")
    image_id: str = ""
    firmware: Firmware = Firmware.BIOS
    boot_loader: bool = Field(True, description="whether the disk boots by itself, not only from its kernel")
    kernel: Path | None = None
    bzimage: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    agent: Literal["hvconform", "ssh"] = "hvconform"

    @model_validator(mode="after")
    def _boots(self) -> Image:
        if not self.boot_loader and not (self.kernel and self.initrd):
            raise ValueError(f"image {self.name} has no boot loader, and no kernel and initrd to boot from instead")
        return self


class Target(_Strict):
    """One driver configured against this lab: a column of the matrix."""

    slug: Slug
    driver: str
    hosts: list[str] = Field(min_length=1)
    defect: str = Field("", description="a seeded defect wrapped round the driver; never in a real certification")
    options: dict[str, Any] = Field(default_factory=dict)


class LabInventory(_Strict):
    """A whole lab."""

    name: Slug
    kind: str = Field(description="which lab kind's observers look at it: an entry point of hvconform.labs")
    evidence: Evidence
    evidence_note: str = Field("", description="what the evidence rests on, such as 'QEMU 7.2, TCG'")
    hosts: list[Host] = Field(min_length=1, alias="host")
    networks: list[Network] = Field(min_length=1, alias="network")
    storages: list[Storage] = Field(min_length=1, alias="storage")
    images: list[Image] = Field(min_length=1, alias="image")
    targets: list[Target] = Field(min_length=1, alias="target")
    state_dir: Path | None = Field(None, description="where a nested lab keeps its own files")

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _consistent(self) -> LabInventory:
        for kind, names in (
            ("host", [host.name for host in self.hosts]),
            ("network", [network.name for network in self.networks]),
            ("storage", [storage.name for storage in self.storages]),
            ("image", [image.name for image in self.images]),
            ("target", [target.slug for target in self.targets]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} named twice: {', '.join(twice)}")
        known = {host.name for host in self.hosts}
        for target in self.targets:
            unknown = sorted(set(target.hosts) - known)
            if unknown:
                raise ValueError(
                    f"target {target.slug} names unknown hosts: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
                )
        return self

    def host(self, name: str) -> Host:
        return _named({item.name: item for item in self.hosts}, name, "host")

    def network(self, name: str) -> Network:
        return _named({item.name: item for item in self.networks}, name, "network")

    def storage(self, name: str) -> Storage:
        return _named({item.name: item for item in self.storages}, name, "storage")

    def image(self, name: str) -> Image:
        return _named({item.name: item for item in self.images}, name, "image")

    def target(self, slug: str) -> Target:
        return _named({item.slug: item for item in self.targets}, slug, "target")


def _named(items: Mapping[str, T], name: str, kind: str) -> T:
    if name not in items:
        raise LabFileError(f"the lab has no {kind} {name!r}", hint=f"known: {', '.join(items)}")
    return items[name]


def parse(text: str, where: str) -> LabInventory:
    """Read a lab file's text.

    Args:
        text: TOML.
        where: The file's name, for messages.

    Raises:
        LabFileError: With every problem found, one a line.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LabFileError(f"{where} is not TOML: {error}", hint="see docs/lab-file.md for an example") from None
    try:
        return LabInventory.model_validate(data)
    except ValidationError as error:
        raise LabFileError(
            f"{where} is not a lab file:\n" + "\n".join(_problem(item) for item in error.errors()),
            hint="see docs/lab-file.md for every key and a complete example",
        ) from None


def _problem(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"]) or "the file"
    # the offending value is left out on purpose: somebody may have pasted a password where none belongs
    return f"  {place}: {item['msg'].removeprefix('Value error, ')}"


def load(path: Path) -> LabInventory:
    """Read a lab file; raises `LabFileError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LabFileError(
            f"no lab file {path}", hint="give a file, or the name of a lab from `hvconform lab status`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabFileError(f"{path} cannot be read: {error}") from None
    return parse(text, str(path))
