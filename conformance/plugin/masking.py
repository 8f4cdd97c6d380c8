"""Keeps secrets out of the run record and of every report."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from conformance.lab.inventory import LabInventory, WinrmShell

_ENDINGS = ("PASSWORD", "TOKEN", "SECRET", "KEY_FILE")
_SHORTEST = 4


class Mask:
    """Replaces every known secret in a text.

    Args:
        secrets: The texts that must not be seen; those under four characters are left, for they would match anywhere.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({text for text in secrets if len(text) >= _SHORTEST}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _lines(file: str) -> list[str]:
    """The lines of a file that holds a secret; none if it cannot be read, which whoever needs it will say."""
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def of_run(labs: Iterable[LabInventory], lease_url: str = "") -> Mask:
    """The mask of a run: secrets of the environment, and those that the labs and the coordinator's URL name or hold."""
    secrets = [value for name, value in os.environ.items() if name.upper().endswith(_ENDINGS)]
    secrets.append(urlsplit(lease_url).password or "")
    for lab in labs:
        for shell in [*(host.shell for host in lab.hosts), *(network.peer for network in lab.networks)]:
            secrets.append(os.environ.get(getattr(shell, "password_env", None) or "", ""))
            if isinstance(shell, WinrmShell):
                secrets += _lines(str(shell.password_file or ""))
        for target in lab.targets:
            for key, value in target.options.items():
                if key.endswith("_env"):
                    secrets.append(os.environ.get(str(value), ""))
                elif key.endswith("password_file"):
                    secrets += _lines(str(value))
                elif "password" in key and not key.endswith("_file"):
                    secrets.append(str(value))
    return Mask(secrets)
