"""libvirt on a nested host: its private folders, its configuration, its daemons."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from conformance.errors import LabError
from labs.kvm.layout import HOSTS, MIGRATION_PORTS, SOCKET_PATH_MAX, TCP_PORT, TLS_PORT, Cell
from labs.kvm.nodes import Node

PRIVATE = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "log": "/var/log/libvirt", "cache": "/var/cache/libvirt"}
"""Folders that each host has of its own, and where it sees them."""

NWFILTERS = Path("/etc/libvirt/nwfilter")

XTABLES = Path("/usr/sbin/xtables-nft-multi")

_FIREWALLS = ("ebtables", "iptables", "ip6tables")

# no cgroups, no device namespaces, no security labels, no ownership changes: what QEMU may touch is bounded by the
# namespaces already, and labels would be seen on the shared storage from both hosts
_QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
security_default_confined = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "logd"
max_core = 0
vnc_listen = "127.0.0.1"
migration_address = "::"
migration_host = "{hostname}"
migration_port_min = {first_port}
migration_port_max = {last_port}
default_tls_x509_cert_dir = "{pki}"
default_tls_x509_verify = 1
migrate_tls_x509_verify = 1
"""

_LIBVIRTD_CONF = """\
listen_tls = 1
listen_tcp = 1
tcp_port = "{tcp_port}"
tls_port = "{tls_port}"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
ca_file = "{pki}/cacert.pem"
cert_file = "{pki}/servercert.pem"
key_file = "{pki}/serverkey.pem"
host_uuid = "{uuid}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
log_filters = "3:remote 4:event 3:util.json 3:rpc"
keepalive_interval = 5
"""


def configure(cell: Cell, host: str) -> None:
    """Write a host's folders and configuration.

    Raises:
        LabError: The state folder's path is too long for unix sockets.
    """
    if len(str(cell.socket(host))) > SOCKET_PATH_MAX:
        raise LabError(
            f"the path {cell.socket(host)} is too long for a unix socket",
            hint="set HVCONFORM_STATE to a folder with a shorter name",
        )
    folder = cell.host_dir(host)
    for name in (*PRIVATE, "run"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    values = {
        "hostname": cell.hostname(host),
        "pki": cell.pki,
        "uuid": cell.host_uuid(host),
        "tcp_port": TCP_PORT,
        "tls_port": TLS_PORT,
        "first_port": MIGRATION_PORTS[0],
        "last_port": MIGRATION_PORTS[1],
    }
    (folder / "etc" / "qemu.conf").write_text(_QEMU_CONF.format(**values))
    (folder / "etc" / "libvirtd.conf").write_text(_LIBVIRTD_CONF.format(**values))
    (folder / "etc" / "virtlogd.conf").write_text('log_outputs = "3:file:/var/log/libvirt/virtlogd.log"\n')
    shutil.copytree(NWFILTERS, folder / "etc" / "nwfilter", dirs_exist_ok=True)
    # libvirt's network filters by nftables, whichever kind the machine's own alternatives point to: the legacy kinds
    # need modules that kernels leave out
    (folder / "bin").mkdir(exist_ok=True)
    for command in _FIREWALLS:
        link = folder / "bin" / command
        link.unlink(missing_ok=True)
        link.symlink_to(XTABLES)
    names = [f"{cell.address4(other)} {cell.hostname(other)}" for other in HOSTS]
    names += [f"{cell.address6(other)} {cell.hostname(other)}" for other in HOSTS]
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", "::1 localhost", *names, ""]))
    (folder / "no-kvm").write_bytes(b"")
    _account(folder, "passwd", "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin")
    _account(folder, "group", "libvirt-qemu:x:64055:")


def _account(folder: Path, name: str, line: str) -> None:
    # Debian's libvirtd does not start without the user it was built for, whatever qemu.conf says; the package that
    # makes the user (libvirt-daemon-system) would start a libvirtd on the machine itself
    text = (Path("/etc") / name).read_text()
    known = line.split(":")[0] in {entry.split(":")[0] for entry in text.splitlines()}
    (folder / name).write_text(text if known else f"{text.rstrip()}\n{line}\n")


def mount(cell: Cell, host: str, node: Node, *, hide_kvm: bool) -> None:
    """Give a host its private folders, over the machine's own."""
    folder = cell.host_dir(host)
    for place in PRIVATE.values():
        # libvirt makes its folders when it first starts as a service, which here it never does; they stay, empty, as
        # another cell may stand on them by now
        Path(place).mkdir(parents=True, exist_ok=True)
    # stale sockets and pid files of daemons that are gone would be believed
    shutil.rmtree(folder / "run")
    (folder / "run").mkdir()
    lines = ["mount -t tmpfs -o size=64m tmpfs /run", "mkdir -p /run/libvirt /run/lock"]
    # not a mount on each file: the kernel takes that away when the machine replaces the file, as every useradd does
    lines += ["mkdir -p /run/etc/upper /run/etc/work"]
    lines += ["mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc"]
    lines += [f'cp "$1/{name}" /etc/{name}' for name in ("hosts", "passwd", "group")]
    lines += [f'mount --bind "$1/{name}" {place}' for name, place in PRIVATE.items()]
    lines += ['mount --bind "$1/run" /run/libvirt']
    if hide_kvm:
        # a regular read-only file: for a /dev/kvm that opens and does not work (and for /dev/null in its place)
        # libvirt announces KVM and probes it again at every call
        lines += [
            '[ ! -e /dev/kvm ] || mount --bind "$1/no-kvm" /dev/kvm',
            "[ ! -e /dev/kvm ] || mount -o remount,bind,ro /dev/kvm",
        ]
    node.shell.script("set -e\n" + "\n".join(lines), str(folder))


def command(cell: Cell, host: str) -> str:
    """The command line that starts a host's daemons, again after one was killed; a virtlogd that runs stays."""
    quiet = "</dev/null >/dev/null 2>&1"
    return (
        f"export PATH={shlex.quote(str(cell.host_dir(host) / 'bin'))}:$PATH; "
        f"virtlogd -d -p /run/virtlogd.pid {quiet}; libvirtd -d --listen -p /run/libvirtd.pid {quiet}"
    )


def start(cell: Cell, host: str, node: Node) -> None:
    """Start the daemons; both are in the background when this returns, and answer a moment later."""
    node.shell.script(command(cell, host))


def answers(node: Node) -> bool:
    """Whether libvirtd answers on its host."""
    return node.shell.run(["virsh", "-c", "qemu:///system", "uri"], check=False, timeout_s=20).status == 0
