"""The nested hosts' storages: `local` is a disk of each; `shared` is a disk of the first, the other has it by NFS."""

from __future__ import annotations

from conformance.shells.shell import Shell
from labs.xen.layout import FIRST, IMAGES, address4, storage

IMAGES_DISK, LOCAL_DISK, SHARED_DISK = "/dev/vdb", "/dev/vdc", "/dev/vdd"

_MOUNT = 'mkdir -p "$2" && mount -o noatime "$1" "$2"'

# version 4 only: no port mapper. A client's opens wait for the end of the grace period, which is for clients of
# a server that was restarted; there are none.
_SERVE = """
set -e
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
echo 10 > /proc/fs/nfsd/nfsv4leasetime
echo 10 > /proc/fs/nfsd/nfsv4gracetime
exportfs -o rw,async,no_subtree_check,no_root_squash "$2/24:$1"
rpc.nfsd --no-nfs-version 3 --host "$2" 4
rpc.mountd --no-nfs-version 2 --no-nfs-version 3
"""
# nothing is cached: what one host wrote the other sees at once, as a migrating guest needs
_USE = """
set -e
mkdir -p "$1"
mount -t nfs -o vers=4.2,hard,sync,noac,lookupcache=none,noatime "$2:$1" "$1"
"""


def disks(host: str) -> list[str]:
    """The names of a host's disks, in the order in which it finds them."""
    return ["root", "images", "local", *(["shared"] if host == FIRST else [])]


def mount(host: str, shell: Shell) -> None:
    """Mount what a host has of its own, and on the first host serve what is shared; the first host comes first."""
    shell.script(_MOUNT, IMAGES_DISK, str(IMAGES))
    shell.script(_MOUNT, LOCAL_DISK, str(storage("local")))
    if host == FIRST:
        shell.script(_MOUNT, SHARED_DISK, str(storage("shared")))
        shell.script(_SERVE, str(storage("shared")), address4(FIRST))
    else:
        shell.script(_USE, str(storage("shared")), address4(FIRST), timeout_s=60)
