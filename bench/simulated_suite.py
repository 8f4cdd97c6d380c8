"""Prints how long the whole suite takes on the simulated lab with two workers, and the most memory that a process took.

python bench/simulated_suite.py [pytest arguments]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "--pyargs", "suites", "--lab=simulated", "--target=simulated", "-n2"]
        environment = os.environ | {"HVCONFORM_STATE": folder}
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "-q", "-p", "no:cacheprovider", f"--out={Path(folder) / 'out'}", *sys.argv[1:]],
            env=environment,
            check=False,
        )
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"simulated suite: {seconds:.1f} s (goal 15 s), CPU {used.ru_utime + used.ru_stime:.1f} s, "
        f"largest process {used.ru_maxrss / 1024:.0f} MiB (goal 200 MB a worker), exit code {done.returncode}"
    )


if __name__ == "__main__":
    main()
