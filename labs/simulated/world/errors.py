"""What the world's hypervisor says when it refuses or fails: a code of its own, which a driver has to translate."""

from __future__ import annotations


class HypervisorError(Exception):
    """The hypervisor's own error.

    Args:
        code: A short word: ``no-domain``, ``no-volume``, ``no-snapshot``, ``no-nic``, ``bad-state``, ``busy``,
            ``exists``, ``bad-request``, ``bad-image``, ``no-space``, ``no-memory``, ``unreachable``, ``guest-refused``,
            ``link-lost``, ``peer-died``, ``aborted``.
        message: What happened, in words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
