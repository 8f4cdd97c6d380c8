"""Two libvirt/QEMU hosts in namespaces of this machine: real hypervisors, no other machine, nothing left behind."""

from __future__ import annotations

from labs.kvm.lab import KvmLab

__all__ = ["KvmLab"]
