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
from collections.abc import Callable, Mapping, Sequence
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

GOAL = 5
"""How many times as fast as run_ps a call has to be."""


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


def measure(calls: Mapping[str, Callable[[], None]], rounds: int) -> Mapping[str, float]:
    """Print and return the median of each kind of call, in milliseconds. In turns, so that a busy machine slows all."""
    times: dict[str, list[float]] = {what: [] for what in calls}
    burnt = dict.fromkeys(calls, 0.0)
    for call in calls.values():
        call()  # opens what is kept
    for _ in range(rounds):
        for what, call in calls.items():
            cpu = time.process_time()
            for _ in range(10):
                began = time.perf_counter()
                call()
                times[what].append((time.perf_counter() - began) * 1000)
            burnt[what] += (time.process_time() - cpu) * 1000
    for what, seen in times.items():
        percentile = statistics.quantiles(seen, n=20)[18]
        print(f"{what:<22} median {statistics.median(seen):6.2f} ms   95 % {percentile:6.2f} ms", end="   ")
        print(f"{1000 / statistics.fmean(seen):6.1f} calls/s   {burnt[what] / len(seen):5.2f} ms CPU of ours a call")
    return {what: statistics.median(seen) for what, seen in times.items()}


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
    kept, pool = connect(urls[0], "winrs"), connect(urls[0], "psrp")
    medians = measure(
        {
            "plain pywinrm run_ps": lambda: run_ps(plain),
            "kept shell (winrs)": lambda: ask(kept),
            "runspace pool (psrp)": lambda: ask(pool),
        },
        max(2, options.calls // 10),
    )
    slow = medians["plain pywinrm run_ps"]
    for what, fast in medians.items():
        print(f"{what:<22} {slow / fast:.1f} times as fast as run_ps", end="")
        missing = GOAL * fast - slow
        print(f"; {GOAL} times from a process start of {missing:.1f} ms on" if fast < slow and missing > 0 else "")
    kept.close()
    pool.close()

    for transport in ("winrs", "psrp"):
        many = [connect(url, transport) for url in urls]
        began = time.perf_counter()
        with ThreadPoolExecutor(len(many)) as threads:
            list(threads.map(ask, many))
            opened = time.perf_counter() - began
            for _ in range(5):
                list(threads.map(ask, many))
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
