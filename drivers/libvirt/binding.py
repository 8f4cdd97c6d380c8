"""libvirt-python, imported when it is first used: a machine that drives no libvirt host does without it."""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

from conformance.errors import MissingRequirement

_lock = threading.Lock()
_module: Any = None


def load() -> Any:
    """The module `libvirt`, quiet on stderr and with its event loop running.

    Raises:
        MissingRequirement: libvirt-python is not installed.
    """
    global _module
    with _lock:
        if _module is None:
            # its log would go to stderr, in the middle of our messages; every error of it is raised as well
            os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null")
            try:
                module = importlib.import_module("libvirt")
            except ImportError as error:
                raise MissingRequirement(
                    f"libvirt-python is not usable on this machine: {error}",
                    hint="apt-get install libvirt-dev gcc && pip install 'hvconform[libvirt]'",
                ) from error
            # libvirt prints every error to stderr by default, though each is raised as well
            module.registerErrorHandler(lambda *_: None, None)
            # keepalive messages, which notice a host that went silent, are sent by the event loop only;
            # it has to exist before the first connection is opened
            module.virEventRegisterDefaultImpl()
            threading.Thread(target=_events, args=(module,), name="libvirt-events", daemon=True).start()
            _module = module
        return _module


def _events(module: Any) -> None:
    while True:
        module.virEventRunDefaultImpl()


class _Lazy:
    def __getattr__(self, name: str) -> Any:
        return getattr(load(), name)


lv: Any = _Lazy()
"""Stands for the module `libvirt`; the first attribute asked of it imports it."""
