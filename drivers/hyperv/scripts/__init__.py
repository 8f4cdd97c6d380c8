"""The PowerShell scripts of the driver: constant files, sent to the hosts without their comments and indentation."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

HERE = Path(__file__).parent
INCLUDE = "# include "


def names() -> tuple[str, ...]:
    """All scripts, without ``.ps1``."""
    return tuple(sorted(path.stem for path in HERE.glob("*.ps1")))


@functools.cache
def text(name: str) -> str:
    """A script as it is sent: without lines that are comments, empty lines and indentation.

    No script has a multi-line string or a block comment, so that this changes nothing; a test holds it. In the place of
    the comment ``# include NAME`` comes that script.

    Raises:
        FileNotFoundError: There is no such script.
    """
    lines = (HERE / f"{name}.ps1").read_text(encoding="ascii").splitlines()
    stripped = (line.strip() for line in lines)
    whole = (text(line.removeprefix(INCLUDE)) if line.startswith(INCLUDE) else line for line in stripped)
    return "\n".join(line for line in whole if line and not line.startswith("#"))


def sha256(name: str) -> str:
    """The SHA-256 of `text`, in hexadecimal."""
    return hashlib.sha256(text(name).encode()).hexdigest()


def encoded(name: str) -> str:
    """A script as PowerShell's ``-EncodedCommand`` takes it."""
    return base64.b64encode(text(name).encode("utf-16-le")).decode("ascii")
