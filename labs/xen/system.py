"""The slow part of dom0: its packages, kernel and modules, made into a root file system without a mount.

mmdebstrap makes a tar archive (as root, or in a user namespace); fakeroot unpacks it and mke2fs makes a file system
of the folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from conformance.errors import LabError
from conformance.guest.boot import uncompress
from conformance.guest.modules import Modules
from conformance.guest.packages import run
from conformance.lab.lab import Say
from labs.xen.debian import DATA, SUITE, cached, digest, listed, sources

_ROOT_MIB = 2048
_EPOCH = {"SOURCE_DATE_EPOCH": "946684800", "E2FSPROGS_FAKE_TIME": "946684800", "TZ": "UTC"}
_LEFT_OUT = ("man", "doc", "locale", "info", "lintian", "bug")
_KEEP_KERNEL = ("modules.builtin", "modules.builtin.modinfo", "modules.order")

# $1 archive, $2 folder of modules, $3 image, $4 scratch; run by fakeroot, so that owners survive
_TO_IMAGE = f"""
set -eu
mkdir "$4" && tar -C "$4" -xf "$1" --exclude='./dev/*' --exclude=./hvconform
cp -a "$2/." "$4/usr/lib/modules/" && chown -R 0:0 "$4/usr/lib/modules"
rm -rf "$4/var/cache/apt" "$4/var/lib/apt/lists" "$4/var/log/apt" "$4/etc/ssh/ssh_host_"*
truncate -s {_ROOT_MIB}M "$3"
mke2fs -q -F -t ext4 -m 0 -O ^has_journal,^metadata_csum -L dom0 -U 00000000-0000-4000-8000-000000000002 \\
    -E hash_seed=00000000-0000-4000-8000-000000000001,root_owner=0:0 -d "$4" "$3"
"""


def build(cache: Path, say: Say) -> Path:
    """A folder with root.img, packages, vmlinux, busybox and the modules in boot/; built at most once.

    Raises:
        MissingRequirement: A tool is missing.
        LabError: Packages cannot be downloaded, or a step failed.
    """
    inputs = ("packages.txt", "modules.txt", "boot.txt", "hook.sh")
    key = digest([Path(__file__), *sources(), *(DATA / name for name in inputs)])
    return cached(cache / "system" / key, lambda out, scratch: _make(out, scratch, say))


def _make(out: Path, scratch: Path, say: Say) -> None:
    say("building dom0 from Debian packages (about a minute, once)")
    archive = scratch / "root.tar"
    words = ["--variant=essential", "--format=tar", f"--include={','.join(listed('packages.txt'))}"]
    words += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    words += ['--aptopt=Apt::Install-Recommends "false"', f'--customize-hook=sh {DATA / "hook.sh"} "$1"']
    where = "".join(f"deb {line}\n" for line in sources()).encode()
    try:
        run("mmdebstrap", *words, SUITE, archive, "-", stdin=where, env=_EPOCH)
    except LabError as error:
        raise LabError(
            f"dom0 cannot be built: {error.message[-800:]}",
            hint="it needs the network; without root also the package uidmap, and a line for you in /etc/subuid",
        ) from None
    run("tar", "-C", scratch, "-xf", archive, "./hvconform", "./usr/bin/busybox")
    kernel = scratch / "kernel"
    run("dpkg-deb", "-x", next(scratch.glob("hvconform/linux-image-*.deb")), kernel)
    modules = Modules(kernel)
    installed = scratch / "modules"
    _copy(modules, kernel, modules.closure([*listed("modules.txt"), *listed("boot.txt")]), installed)
    script = ["sh", "-c", _TO_IMAGE, "sh", str(archive), str(installed / "lib" / "modules"), str(out / "root.img")]
    run(*([] if os.geteuid() == 0 else ["fakeroot"]), *script, str(scratch / "root"), env=_EPOCH)
    shutil.copyfile(scratch / "hvconform" / "packages", out / "packages")
    shutil.copyfile(scratch / "usr" / "bin" / "busybox", out / "busybox")
    (out / "vmlinux").write_bytes(uncompress((kernel / "boot" / f"vmlinuz-{modules.version}").read_bytes()))
    order = modules.closure(listed("boot.txt"))
    (out / "boot").mkdir()
    for name in order:
        (out / "boot" / f"{name}.ko").write_bytes(modules.content(name))
    (out / "boot" / "order").write_text("".join(f"{name}\n" for name in order))


def _copy(modules: Modules, root: Path, names: list[str], into: Path) -> None:
    for name in names:
        source = modules.path(name)
        target = into / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for name in _KEEP_KERNEL:
        shutil.copyfile(
            root / "lib" / "modules" / modules.version / name, into / "lib" / "modules" / modules.version / name
        )
    run("depmod", "-b", into, modules.version)
