"""The test guest: a small Linux with an agent, built from Debian packages; see docs/guest-image.md."""

from __future__ import annotations

from conformance.guest.image import CMDLINE, FORMATS, GuestImages, build
from conformance.guest.layout import DISK_SIZE, SCRATCH_OFFSET, SCRATCH_SIZE
from conformance.guest.packages import SYSTEM_PACKAGES, TOOLS

__all__ = [
    "CMDLINE",
    "DISK_SIZE",
    "FORMATS",
    "SCRATCH_OFFSET",
    "SCRATCH_SIZE",
    "SYSTEM_PACKAGES",
    "TOOLS",
    "GuestImages",
    "build",
]
