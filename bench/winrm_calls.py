"""What a call to a Hyper-V host costs: over a kept shell and a runspace pool, against plain pywinrm's run_ps.

    python bench/winrm_calls.py [--calls N] [--hosts N]

All go to the same endpoint, the double of the lab hyperv-double in a process of its own, by NTLM-encrypted HTTP. It
answers at once and starts no PowerShell, which a real host does for every run_ps, and once for the others: the figures
here are the protocol's share alone. The second part drives many hosts from one process, and prints how much
memory that takes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import winrm

from drivers.hyperv.transport import Command, Secret, Transport, WinrmSettings, open_transport
from labs.hyperv_double.endpoint import Account, Endpoint, shells
from labs.hyperv_double.engine import Command as Asked
from labs.hyperv_double.engine import Outcome, Session

USER, PASSWORD = "lab", "bench-only"
NAME = "Name of a VM"
ONCE = f"$ProgressPreference='SilentlyContinue'; Get-VM -Name '{NAME}' | ConvertTo-Json"
"""What plain run_ps is given; the double knows this very text."""


class OneVm:
    """Answers with one VM."""

    def run(self, session: Session, pipeline: Sequence[Asked], *, stop: threading.Event) -> Outcome:  # noqa: ARG002
        return Outcome([{"Name": NAME, "State": "Running", "MemoryAssigned": 1 << 30, "ProcessorCount": 2}])


def serve(hosts: int, pipe: multiprocessing.connection.Connection) -> None:
    """The endpoints, in a process of their own: tells their URLs, and ends when it is told to."""
    shells.KNOWN_ONCE[ONCE] = [Asked("Get-VM", {"Name": NAME})]
    endpoints = [Endpoint(OneVm(), accounts={USER: Account(PASSWORD)}) for _ in range(hosts)]
    pipe.send([endpoint.url for endpoint in endpoints])
    pipe.recv()
    left = sum(endpoint.open_shells for endpoint in endpoints)
    for endpoint in endpoints:
        endpoint.close()
    pipe.send(left)


def connect(url: str, transport: str) -> Transport:
    settings = WinrmSettings.model_validate(
        {"endpoints": {"h": url}, "transport": transport, "user": USER, "password_env": "UNUSED"}
    )
    return open_transport("h", settings, Secret(PASSWORD))


def ask(transport: Transport) -> None:
    (vm,) = transport.invoke([Command("Get-VM", {"Name": NAME})], select=("Name", "State"), deadline_s=60).objects
    assert vm == {"Name": NAME, "State": "Running"}


def run_ps(session: winrm.Session) -> None:
    answer = session.run_ps(ONCE)
    assert answer.status_code == 0, answer.std_err
    assert b"Running" in answer.std_out


def measure(what: str, call: Callable[[], None], calls: int) -> float:
    """Print and return the median of a call, in milliseconds."""
    call()  # opens what is kept
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    median = statistics.median(times)
    percentile = statistics.quantiles(times, n=20)[18]
    rate = 1000 / statistics.fmean(times)
    print(f"{what:<34} median {median:7.2f} ms   95 % {percentile:7.2f} ms   {rate:6.1f} calls/s")
    return median


def memory_mib() -> float:
    """The most that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--hosts", type=int, default=64)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(options.hosts, there), daemon=True)
    server.start()
    urls = here.recv()

    plain = winrm.Session(urls[0], auth=(USER, PASSWORD), transport="ntlm", proxy=None, ca_trust_path=None)
    slow = measure("plain pywinrm run_ps", lambda: run_ps(plain), max(20, options.calls // 5))
    for name, transport in (("kept shell (winrs)", "winrs"), ("runspace pool (psrp)", "psrp")):
        kept = connect(urls[0], transport)
        fast = measure(name, lambda kept=kept: ask(kept), options.calls)  # type: ignore[misc]
        kept.close()
        print(f"{'':<34} {slow / fast:.1f} times faster than run_ps")

    for transport in ("winrs", "psrp"):
        many = [connect(url, transport) for url in urls]
        began = time.perf_counter()
        with ThreadPoolExecutor(len(many)) as pool:
            list(pool.map(ask, many))
            opened = time.perf_counter() - began
            for _ in range(5):
                list(pool.map(ask, many))
        took = time.perf_counter() - began - opened
        rate = 5 * len(many) / took
        print(f"{len(many)} hosts at once by {transport}: opened in {opened:.1f} s, then {rate:.0f} calls/s;", end=" ")
        print(f"at most {memory_mib():.0f} MiB resident")
        for one in many:
            one.close()
    here.send("end")
    print(f"shells left on the hosts: {here.recv()}")
    server.join()


if __name__ == "__main__":
    main()
