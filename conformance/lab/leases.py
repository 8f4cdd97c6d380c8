"""Leases: a worker holds one lab of the pool for itself, and the lease ends with its process.

By default a lease is a lock on a file, good for one machine. Where a lab is shared by many machines, a coordinator such
as etcd or Redis is given by ``--lease-url`` or ``HVCONFORM_LEASES``, as tooz takes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from conformance import paths
from conformance.errors import LabError
from conformance.lab.inventory import LabInventory
from conformance.waiting import WaitTimeout, until

WAIT_S = 60.0
"""How long to wait for a lab that another process holds."""


def default_url() -> str:
    """``$HVCONFORM_LEASES``, else files on this machine."""
    return os.environ.get("HVCONFORM_LEASES") or f"file://{paths.state_dir() / 'leases'}"


class Lease:
    """One lab, held exclusively until `release` or the end of the process."""

    def __init__(self, lab: LabInventory, coordinator: Any, lock: Any) -> None:
        self.lab = lab
        self._coordinator = coordinator
        self._lock = lock

    def release(self) -> None:
        self._lock.release()
        self._coordinator.stop()


def acquire(labs: Sequence[LabInventory], keys: Sequence[str], *, url: str, who: str, wait_s: float = WAIT_S) -> Lease:
    """Lease any one of `labs`.

    Args:
        labs: The pool.
        keys: What each lab is called among all that share the coordinator.
        url: The coordinator.
        who: This process, for the coordinator's records.
        wait_s: How long to wait while all of them are held.

    Raises:
        LabError: All are held by others, or the coordinator does not answer.
    """
    # imported here: it costs 0.3 s, and nothing but a worker needs it
    from tooz import ToozError, coordination

    try:
        coordinator = coordination.get_coordinator(url, who.encode())
        coordinator.start(start_heart=True)
    except (ToozError, OSError, ImportError, RuntimeError) as error:
        raise LabError(
            f"the lease coordinator {url.split('@')[-1]} cannot be used: {error}",
            hint="correct --lease-url or HVCONFORM_LEASES",
        ) from error

    locks = [coordinator.get_lock(f"lab-{key}".encode()) for key in keys]

    def attempt() -> Lease | None:
        for lab, lock in zip(labs, locks, strict=True):
            if lock.acquire(blocking=False):
                return Lease(lab, coordinator, lock)
            _close(lock)
        return None

    try:
        lease = until("a free lab", attempt, lambda held: held is not None, seconds=wait_s, interval=0.1)
    except (WaitTimeout, ToozError) as error:
        coordinator.stop()
        raise LabError(
            f"no lab is free for {who}: all of {', '.join(keys)} are leased by others ({error})",
            hint="give more labs to --lab, or fewer workers to -n",
        ) from error
    assert lease is not None
    return lease


def _close(lock: Any) -> None:
    """Close the file of a lock that was not got: fasteners leaves it open, to be warned about when collected."""
    file = getattr(getattr(lock, "_lock", None), "lockfile", None)
    if file is not None:
        file.close()
