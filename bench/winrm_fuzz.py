"""Damages the answers of a WinRM endpoint, and sees that every call ends in values or a typed error, in time.

    python bench/winrm_fuzz.py [--cases N] [--seed S] [--threads T]

The endpoint is the double of the lab hyperv-double, in this process. Every way of the transport suite is taken in turn:
both transports, over NTLM-encrypted HTTP and over HTTPS. Exit code 1 if a case ended otherwise or a shell was left.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from labs.kvm import certificates
from tests.hyperv.transport import fuzzing
from tests.hyperv.transport.conftest import WAYS, Bench, Way


def fuzz(way: Way, folder: Path, seed: int, cases: int) -> Counter[str]:
    """The ends of all cases of one way; its shells are counted at the end."""
    files = (folder / "servercert.pem", folder / "serverkey.pem")
    bench = Bench(way, folder / "cacert.pem", files=files)
    endpoint = bench.serve()
    try:
        return fuzzing.run(endpoint, bench.connect(endpoint), seed=seed, cases=cases)
    finally:
        bench.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    logging.disable()  # pypsrp logs what it cannot parse
    began = time.monotonic()
    total: Counter[str] = Counter()
    failed = False
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.threads) as pool:
        folder = Path(name)
        certificates.write(folder, {"localhost": ["127.0.0.1"]})
        share, more = divmod(options.cases, len(WAYS))
        runs = {
            way: pool.submit(fuzz, way, folder, options.seed + number, share + (number < more))
            for number, way in enumerate(WAYS)
        }
        for way, run in runs.items():
            try:
                ends = run.result()
            except AssertionError as error:
                print(f"{way}: {error}", flush=True)
                failed = True
                continue
            total += ends
            shown = ", ".join(f"{end} {count}" for end, count in ends.most_common())
            print(f"{way!s:<18} {ends.total():>5} cases: {shown}", flush=True)
    print(f"{total.total()} cases in {time.monotonic() - began:.0f} s: {dict(total.most_common())}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
