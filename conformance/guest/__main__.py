"""`python -m conformance.guest`: build the test guest's images and say where they are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from conformance.errors import LabError
from conformance.guest.image import FORMATS, build
from conformance.paths import cache_dir


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance.guest", description=__doc__)
    parser.add_argument("--cache", type=Path, default=cache_dir(), help="folder of packages and builds")
    parser.add_argument("--format", choices=FORMATS, action="append", help="also convert the disks")
    options = parser.parse_args()
    try:
        images = build(options.cache, lambda text: print(text, file=sys.stderr))
        for disk_format in options.format or ():
            for firmware in ("bios", "uefi"):
                images.disk(firmware, disk_format)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"image id  {images.image_id}\ncmdline   {images.cmdline}")
    for name, digest in images.sha256.items():
        print(f"{digest}  {images.folder / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
