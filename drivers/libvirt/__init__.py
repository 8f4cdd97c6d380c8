"""The libvirt driver: QEMU/KVM hosts, and whatever else libvirt drives, as a cloud's compute agent uses them."""

from drivers.libvirt.driver import LibvirtDriver

__all__ = ["LibvirtDriver"]
