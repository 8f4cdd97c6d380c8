"""What libvirt's API neither shows nor mends on a Xen host: asked of `xl`, xenstore and libxl's own processes there.

This is the driver's own way into dom0, with credentials from its target's options; the probes have theirs.
"""

from __future__ import annotations

import re

POWEROFF, REBOOT, SUSPEND = 0, 1, 2
"""Why a domain has shut down: `SHUTDOWN_poweroff` and so on of Xen's public/sched.h."""

# the columns of `xl list -v`; a name may hold anything, the rest may not
_LINE = re.compile(
    r"^.*? +(?P<id>\d+) +\d+ +\d+ +(?P<state>[rbpscd-]{6}) +[\d.]+ +(?P<uuid>[0-9a-f-]{36}) +(?P<reason>[0-9a-f]+|-)",
    re.MULTILINE,
)
