"""The lab kind `hyperv`: a user's own Windows hosts with Hyper-V, looked at over WinRM."""

from labs.hyperv_hosts.lab import HypervHostsLab

__all__ = ["HypervHostsLab"]
