"""Prints how long the plugin takes to collect 10,000 items.

python bench/collection.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ITEMS = 10_000
FILES = 50


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = "import pytest\n" + "".join(
            f'@pytest.mark.requirement("boot.correct-image")\ndef test_{number}(machine): pass\n'
            for number in range(ITEMS // FILES)
        )
        for number in range(FILES):
            (folder / f"test_{number}.py").write_text(body)
        command = [sys.executable, "-m", "pytest", str(folder), "--lab=simulated", "--target=simulated"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--collect-only", "-qq", "-p", "no:cacheprovider", f"--out={folder / 'out'}"],
            env=os.environ | {"HVCONFORM_STATE": name},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        print(f"collection of {ITEMS} items: {time.perf_counter() - start:.1f} s (goal 5 s), code {done.returncode}")


if __name__ == "__main__":
    main()
