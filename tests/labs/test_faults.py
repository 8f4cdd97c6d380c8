"""When a killed process is gone: not before its last thread is, which holds its files and its locks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conformance.errors import FaultNotFired
from conformance.shells.shell import LocalShell
from conformance.waiting import until
from labs.hosts import faults

# the first thread ends by itself (exit, system call 60 on x86-64) and leaves a zombie with a thread that lives
FIRST_THREAD_ENDS = """
import ctypes, threading
threading.Thread(target=threading.Event().wait).start()
print("up", flush=True)
ctypes.CDLL(None).syscall(60, 0)
"""


def test_a_process_is_gone_with_its_last_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_SECONDS", 0.5)
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        state = f"/proc/{process.pid}/stat"
        until("the first thread to end", lambda: ") Z " in LocalShell().run(["cat", state]).text, seconds=5)

        try:
            with pytest.raises(FaultNotFired, match="lives on"):
                faults.gone(LocalShell(), process.pid, "it")
        finally:
            process.kill()
        faults.gone(LocalShell(), process.pid, "it")
