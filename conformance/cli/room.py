"""Room on the disk that a run writes to: enough to begin, some held back, and an end in order before there is none."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from conformance.errors import LabError

MIB = 1 << 20
NEEDED = 24 * MIB
"""The record, the reports and the Allure results of the whole contract take about that."""

_RESERVE = 8 * MIB
_LOW = 2 * MIB


class Room:
    """Holds some room back in a run's folder, and lets it go when the rest is used up.

    Args:
        folder: The run's.

    Raises:
        LabError: There is too little to begin with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gone = False
        self._reserve = folder / ".reserve"
        free = shutil.disk_usage(folder).free
        if free < NEEDED:
            raise LabError(
                f"--out {folder}: {free / MIB:.1f} MiB are left on its disk, and a run needs {NEEDED // MIB}",
                hint="free some space, or give another --out",
            )
        with self._reserve.open("wb") as file, suppress(OSError):  # a file system that cannot do it goes without
            os.posix_fallocate(file.fileno(), 0, _RESERVE)

    def __enter__(self) -> Room:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._reserve.unlink(missing_ok=True)

    def used_up(self) -> bool:
        """Whether there is no more room for further tests; what was held back is free for the reports then. Once."""
        if self.gone or shutil.disk_usage(self.folder).free >= _LOW:
            return False
        self.gone = True
        self._reserve.unlink(missing_ok=True)
        return True
