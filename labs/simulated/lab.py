"""How a simulated lab comes up: nothing to start, only an inventory to write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from conformance.lab.inventory import Image, LabInventory, Storage
from conformance.lab.lab import LabKind, LabStatus, Observers, Say
from conformance.model import MIB, Evidence, Firmware
from labs.simulated import world as worlds
from labs.simulated.observers import SimulatedObservers
from labs.simulated.world.world import IMAGES, image_file

IMAGE_BYTES = 64 * MIB
RAW_BYTES = 4 * MIB
HOST_MIB = 16384


def _image(name: str, **more: Any) -> Image:
    image = Image(
        name=name,
        path=Path(f"{IMAGES}{name}.img"),
        sha256="0" * 64,
        **{"size_bytes": IMAGE_BYTES, "image_id": f"simulated-{name}", **more},
    )
    return image.model_copy(update={"sha256": image_file(image).sha256()})


def _network(number: int) -> dict[str, Any]:
    return {
        "name": f"net{number}",
        "bridge": f"br{number}",
        "ipv4": f"10.{76 + number}.0.0/16",
        "ipv6": f"fd00:{76 + number}::/64",
        "gateway4": f"10.{76 + number}.0.1",
        "dns": f"10.{76 + number}.0.1",
        "peer": {"kind": "local"},
        "peer_interface": f"peer{number}",
    }


def inventory(name: str, targets: Mapping[str, Mapping[str, Any]] | None = None) -> LabInventory:
    """The inventory of a simulated lab.

    Args:
        name: The lab's name, and the key of its world.
        targets: Options by slug; None for the usual two.
    """
    wanted = targets if targets is not None else {"simulated": {}, "simulated-equivalent": {"equivalent": True}}
    parts: dict[str, Any] = {
        "name": name,
        "kind": "simulated",
        "evidence": Evidence.SIMULATED,
        "evidence_note": "an in-memory world; no hypervisor at all",
        "host": [
            {"name": host, "address": f"192.0.2.{number}", "address6": f"2001:db8::{number}", "memory_mib": HOST_MIB}
            for number, host in enumerate(("a", "b"), 1)
        ],
        "network": [_network(1), _network(2)],
        "storage": [
            Storage(name="shared", path=Path("/srv/shared"), shared=True),
            Storage(name="local", path=Path("/srv/local"), shared=False),
        ],
        "image": [
            _image("hvconform"),
            _image("hvconform-uefi", firmware=Firmware.UEFI),
            _image("corrupt", image_id=""),
            _image("raw-looking-like-qcow2", format="raw", size_bytes=RAW_BYTES),
        ],
        "target": [
            {"slug": slug, "driver": "simulated", "hosts": ["a", "b"], "options": dict(options)}
            for slug, options in wanted.items()
        ],
    }
    return LabInventory.model_validate(parts)


class SimulatedLab(LabKind):
    """A lab without a machine: each process that asks for it has a world of its own."""

    kind: ClassVar[str] = "simulated"
    nested: ClassVar[bool] = True
    needs_root: ClassVar[bool] = False

    @classmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        return SimulatedObservers(inventory)

    @classmethod
    def up(cls, cell: int, state_dir: Path, say: Say) -> LabInventory:  # noqa: ARG003 - there is nothing to keep there
        made = inventory(f"simulated-{cell}")
        worlds.get(made)
        say(f"simulated world {cell}: 2 hosts, 2 networks, in memory")
        return made

    @classmethod
    def down(cls, cell: int, state_dir: Path, say: Say) -> None:  # noqa: ARG003
        worlds.forget(f"simulated-{cell}")
        say(f"simulated world {cell} is gone")

    @classmethod
    def status(cls, cell: int, state_dir: Path) -> LabStatus:  # noqa: ARG003
        return LabStatus(f"simulated-{cell}", "up", "in the memory of whoever uses it")
