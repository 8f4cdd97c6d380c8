"""What a kind of lab offers: its observers and, where it is nested, coming up and going down.

A kind of lab is an entry point of the group ``hvconform.labs``. It knows no driver.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from conformance.lab.inventory import LabInventory
from conformance.observers.guest import Channel
from conformance.observers.host import HostProbe
from conformance.observers.wire import WirePeer
from conformance.waiting import Clock

Say = Callable[[str], None]
"""Takes one line of progress for the person who waits."""


class Observers(ABC):
    """The observers of one lab, opened by one process. Raises `LabError`s only."""

    clock: Clock | None = None
    """The lab's own clock where it is not the machine's: the simulated world's."""

    @abstractmethod
    def host(self, name: str) -> HostProbe:
        """The probe of a host."""

    @abstractmethod
    def peer(self, network: str) -> WirePeer:
        """The wire peer in a network."""

    @abstractmethod
    def network_channel(self, network: str, mac: str) -> Channel:
        """The guest agent behind the NIC with this MAC, reached over that network and no other way."""

    @abstractmethod
    def serial_channel(self, uuid: str) -> Channel:
        """The guest agent of the VM with this UUID, reached over its serial console on whichever host runs it."""

    def realtime(self) -> float:
        """Seconds since the epoch by the lab's reference clock, for comparing guests' wall clocks with."""
        return time.time()

    @abstractmethod
    def health(self) -> Sequence[str]:
        """What is wrong with the lab itself right now, a sentence each; empty when it is fit to judge a driver."""

    def revive(self) -> Sequence[str]:
        """Start management daemons again that have died, as a service manager does; a sentence for each."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """End every process and connection that was opened; takes nothing of the lab down."""


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A nested lab as it is on this machine: `state` is up, down or broken; `detail` says what is missing."""

    name: str
    state: str
    detail: str = ""


class LabKind(ABC):
    """A kind of lab."""

    kind: ClassVar[str]
    nested: ClassVar[bool] = False
    """Whether `up` and `down` exist: the lab is made by us on this machine."""
    needs_root: ClassVar[bool] = False

    @classmethod
    def enter(cls, inventory: LabInventory) -> None:  # noqa: ARG003 - for those kinds that need it
        """Start what this process itself has to run for a lab before anybody connects: the endpoints of a double."""
        return

    @classmethod
    def not_testable(cls) -> Mapping[str, str]:
        """Requirements that a double or a simulator cannot show whatever the driver does, and why.

        Keys are ids or globs of them. Their cells say not-testable-here; only labs whose evidence is a double's or a
        simulator's may have any.
        """
        return {}

    @classmethod
    @abstractmethod
    def observe(cls, inventory: LabInventory) -> Observers:
        """Open the observers of a lab that is up."""

    @classmethod
    def up(cls, cell: int, state_dir: Path, say: Say) -> LabInventory:
        """Bring one cell of the lab up, or take over one that is up already.

        A cell is a whole lab of its own, with its own hosts, networks and storage, so that several workers can run
        side by side, each on its own cell.

        Args:
            cell: Number of the cell, from 0.
            state_dir: A folder for this cell's files.
            say: Gets progress lines.

        Raises:
            MissingRequirement: Something is not installed or not permitted here.
        """
        raise NotImplementedError(f"the lab kind {cls.kind} is not nested")

    @classmethod
    def down(cls, cell: int, state_dir: Path, say: Say) -> None:
        """Take a cell down and leave no trace of it, however broken it is; a cell that is not there is fine."""
        raise NotImplementedError(f"the lab kind {cls.kind} is not nested")

    @classmethod  # noqa: B027 - most kinds keep nothing
    def forget(cls, say: Say) -> None:
        """Throw away what was built for this kind of lab and is kept for the next time: `up` builds it again."""

    @classmethod
    def status(cls, cell: int, state_dir: Path) -> LabStatus:
        """Look without touching."""
        raise NotImplementedError(f"the lab kind {cls.kind} is not nested")

    @classmethod
    def missing(cls) -> Sequence[tuple[str, str]]:
        """What this machine lacks for this kind of lab: (what, how to get it), for `hvconform doctor`."""
        return ()
