"""Leases: a worker holds one lab of the pool for itself, and the lease ends with its process.

By default a lease is a lock on a file, good for one machine. Where a lab is shared by many machines, a coordinator such
as etcd or Redis is given by ``--lease-url`` or ``HVCONFORM_LEASES``, as tooz takes it.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from conformance import paths
from conformance.errors import LabBusy, LabError
from conformance.lab import labs
from conformance.lab.inventory import LabInventory
from conformance.waiting import WaitTimeout, until

_PORTS = {"redis": 6379, "etcd3+http": 2379, "etcd3+https": 2379, "mysql": 3306, "postgresql": 5432}
"""Where coordinators listen when their URL does not say."""

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


def key(lab: LabInventory) -> str:
    """What a lab is called among all that share a coordinator.

    Whoever shares a lab of a user's gives it the same name. A nested one of the same name is another one on every
    machine, and in every state folder.
    """
    if not labs.lab_kind(lab.kind).nested:
        return lab.name
    place = hashlib.sha256(str(lab.state_dir or paths.state_dir()).encode()).hexdigest()[:8]
    return f"{lab.name}-{socket.gethostname()}-{place}"


def acquire(pool: Sequence[LabInventory], keys: Sequence[str], *, url: str, who: str, wait_s: float = WAIT_S) -> Lease:
    """Lease any one lab of a pool.

    Args:
        pool: The labs.
        keys: What each of them is called among all that share the coordinator.
        url: The coordinator.
        who: This process, for the coordinator's records.
        wait_s: How long to wait while all of them are held.

    Raises:
        LabBusy: All are held by others.
        LabError: The coordinator does not answer.
    """
    # imported here: it costs 0.3 s, and nothing but a worker needs it
    from tooz import coordination

    shown = url.rpartition("@")[2].partition("?")[0]
    try:
        _reach(url)
        coordinator = coordination.get_coordinator(url, who.encode())
        coordinator.start(start_heart=True)
    except Exception as error:  # its drivers let out what their clients raise
        missing = "the Python package of its client is not installed: " if _lacks_client(error) else ""
        raise LabError(
            f"the lease coordinator {shown} cannot be used: {missing}{error}",
            hint=f"pip install 'hvconform[{_extra(url)}]'" if missing else "correct --lease-url or HVCONFORM_LEASES",
        ) from error

    locks = [coordinator.get_lock(f"lab-{name}".encode()) for name in keys]

    def attempt() -> Lease | None:
        for lab, lock in zip(pool, locks, strict=True):
            if lock.acquire(blocking=False):
                return Lease(lab, coordinator, lock)
            _close(lock)
        return None

    try:
        lease = until("a free lab", attempt, lambda held: held is not None, seconds=wait_s, interval=0.5)
    except WaitTimeout as error:
        coordinator.stop()
        raise LabBusy(
            f"no lab is free for {who}: all of {', '.join(keys)} are leased by others ({error})",
            hint="give more labs to --lab, or fewer workers to -n; or wait until the other run is over",
        ) from error
    except Exception as error:
        coordinator.stop()
        raise LabError(f"the lease coordinator {shown} failed: {error}", hint="see that it is up") from error
    assert lease is not None
    return lease


def _reach(url: str) -> None:
    """Raise `OSError` where nobody listens: the clients try again and again, Redis' for a minute."""
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    if parts.hostname and port:
        socket.create_connection((parts.hostname, port), timeout=10).close()


def _lacks_client(error: BaseException) -> bool:
    """Whether an import failed: stevedore, which loads the drivers, wraps that."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ImportError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _extra(url: str) -> str:
    """The extra of this distribution that brings the client of a coordinator."""
    scheme = url.partition(":")[0]
    return "etcd" if scheme.startswith("etcd3") else scheme


def _close(lock: Any) -> None:
    """Close the file of a lock that was not got: fasteners leaves it open, to be warned about when collected."""
    file = getattr(getattr(lock, "_lock", None), "lockfile", None)
    if file is not None:
        file.close()
