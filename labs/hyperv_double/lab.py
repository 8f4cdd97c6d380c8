"""The lab kind `hyperv-double`: two hosts of our own making behind WinRM endpoints, in the process that uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from conformance.errors import MissingRequirement
from conformance.lab.inventory import Image, LabInventory, Storage
from conformance.lab.lab import LabKind, LabStatus, Observers, Say
from conformance.model import MIB, Evidence, Firmware
from labs.hyperv_double import manifest
from labs.hyperv_double.names import PASSWORD, USER, variable
from labs.simulated import world as worlds
from labs.simulated.world.world import image_file

SHARED = "\\\\files.lab\\vms\\hv"
LOCAL = "D:\\hv"
SWITCH = "lab"
IMAGE_BYTES = 64 * MIB
HOST_MIB = 16384
INSTALL = "pip install 'hvconform[hyperv-double]'"
VLANS = {"net1": 101, "net2": 102}


def _image(name: str, **more: Any) -> Image:
    image = Image(
        name=name,
        path=Path(f"{SHARED}\\images\\{name}.vhdx"),
        format="vhdx",
        sha256="0" * 64,
        **{"size_bytes": IMAGE_BYTES, "image_id": f"double-{name}", **more},
    )
    return image.model_copy(update={"sha256": image_file(image).sha256()})


def _network(number: int) -> dict[str, Any]:
    return {
        "name": f"net{number}",
        "bridge": SWITCH,
        "ipv4": f"10.{86 + number}.0.0/16",
        "ipv6": f"fd00:{86 + number}::/64",
        "gateway4": f"10.{86 + number}.0.1",
        "dns": f"10.{86 + number}.0.1",
        "peer": {"kind": "local"},
        "peer_interface": f"peer{number}",
    }


def inventory(name: str, options: Mapping[str, Any] | None = None) -> LabInventory:
    """The inventory of a double.

    Args:
        name: The lab's name, and the key of its world.
        options: More options of its target.
    """
    login = {"auth": "ntlm", "user": USER, "password_env": PASSWORD}
    urls = {host: f"http://${{{variable(name, host)}}}/wsman" for host in ("a", "b")}
    return LabInventory.model_validate(
        {
            "name": name,
            "kind": "hyperv-double",
            "evidence": Evidence.OWN_DOUBLE,
            "evidence_note": "a WinRM endpoint and a model of Hyper-V of our own; no Windows, no Hyper-V",
            "host": [
                {
                    "name": host,
                    "address": f"198.51.100.{number}",
                    "memory_mib": HOST_MIB,
                    "shell": {"kind": "winrm", "url": urls[host], **login},
                }
                for number, host in enumerate(("a", "b"), 1)
            ],
            "network": [_network(1), _network(2)],
            "storage": [
                Storage(name="shared", path=Path(SHARED), shared=True),
                Storage(name="local", path=Path(LOCAL), shared=False),
            ],
            "image": [
                _image("hvconform", firmware=Firmware.UEFI),
                _image("hvconform-bios"),
                _image("corrupt", image_id=""),
            ],
            "target": [
                {
                    "slug": "hyperv-double",
                    "driver": "hyperv",
                    "hosts": ["a", "b"],
                    "options": {"endpoints": urls, "vlans": VLANS, **login, **(options or {})},
                }
            ],
        }
    )


class HypervDoubleLab(LabKind):
    """A double without a machine: each process that asks for it has a world and endpoints of its own."""

    kind: ClassVar[str] = "hyperv-double"
    nested: ClassVar[bool] = True
    needs_root: ClassVar[bool] = False

    @classmethod
    def not_testable(cls) -> Mapping[str, str]:
        return manifest.load().not_testable

    @classmethod
    def enter(cls, inventory: LabInventory) -> None:
        # here, so that a machine without the libraries still has the other kinds of labs
        try:
            from labs.hyperv_double.site import serve
        except ImportError as error:
            raise MissingRequirement(f"the double needs more libraries: {error}", hint=INSTALL) from None
        serve(inventory)

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        cls.enter(inventory)
        from labs.hyperv_double.observers import DoubleObservers

        return DoubleObservers(inventory)

    @classmethod
    def up(cls, cell: int, state_dir: Path, say: Say) -> LabInventory:  # noqa: ARG003 - nothing is kept there
        made = inventory(f"hyperv-double-{cell}")
        cls.enter(made)
        say(f"double {cell}: 2 Hyper-V hosts of our own making, in memory, behind WinRM on loopback")
        return made

    @classmethod
    def down(cls, cell: int, state_dir: Path, say: Say) -> None:  # noqa: ARG003
        name = f"hyperv-double-{cell}"
        if not cls.missing():
            from labs.hyperv_double.site import stop

            stop(name)
        worlds.forget(name)
        say(f"double {cell} is gone")

    @classmethod
    def status(cls, cell: int, state_dir: Path) -> LabStatus:  # noqa: ARG003
        return LabStatus(f"hyperv-double-{cell}", "up", "in the memory of whoever uses it")

    @classmethod
    def missing(cls) -> Sequence[tuple[str, str]]:
        lacking = [name for name in ("pypsrp", "winrm", "psrpcore", "spnego") if find_spec(name) is None]
        return [(name, INSTALL) for name in lacking]
