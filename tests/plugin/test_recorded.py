"""The recorded driver behaves as the driver does, and says what it was asked."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.driver import Driver, Migrate, Operation, Pause, Running, disagreements
from conformance.errors import NotFound, Timeout, Unsupported
from conformance.lab import labs
from conformance.model import Capability
from conformance.plugin.masking import Mask
from conformance.plugin.recorded import RecordedOperation, Tape, record
from conformance.record import DriverCall
from drivers.simulated import SimulatedDriver
from labs.simulated.lab import SimulatedLab


class Odd(SimulatedDriver):
    """Hangs where it should reboot, and says a secret where it fails."""

    def reboot(self, vm: str, mode: Any = None) -> Operation[None]:  # noqa: ARG002
        return Running(lambda: print(threading.Event().wait(20)), operation="reboot", vm=vm)

    def addresses(self, vm: str) -> list[str]:
        raise NotFound(f"no {vm} for hunter22", operation="addresses")


class Bare(SimulatedDriver):
    """Offers its migrations through another object, and no pause."""

    def facet(self, kind: type[Any]) -> Any:
        if kind is Pause:
            raise Unsupported(capability="pause")
        return Moves() if kind is Migrate else super().facet(kind)


class Moves:
    def migrate(self, vm: str, host: str, options: Any = None) -> Operation[None]:  # noqa: ARG002
        return Running(lambda: None, operation="migrate", vm=vm)


calls: list[DriverCall] = []
begun: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()
    begun.clear()


def recorded(cls: type[SimulatedDriver], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr(labs, "driver_class", lambda _: cls)
    lab = SimulatedLab.up(7, tmp_path, lambda _: None)
    inner = labs.connect(lab, lab.targets[0])
    return record(inner, Tape(calls.append, begun.append, Mask(["hunter22"]), lambda: 0.1))


@pytest.fixture
def odd(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return recorded(Odd, tmp_path, monkeypatch)


def test_facets_are_those_of_the_driver(odd: Driver) -> None:
    assert isinstance(odd, Driver)
    assert isinstance(odd, Pause)
    assert odd.facet(Pause) is odd
    assert not disagreements(odd)
    assert Capability.PAUSE in odd.capabilities()


def test_facet_of_another_object_is_recorded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = recorded(Bare, tmp_path, monkeypatch)

    bare.facet(Migrate).migrate("a", "b").wait()

    assert [call.operation for call in calls] == ["migrate"]
    with pytest.raises(Unsupported):
        bare.facet(Pause)


def test_operation_that_never_ends_meets_the_deadline(odd: Driver) -> None:
    with pytest.raises(Timeout, match=r"no end after 0\.1 s"):
        odd.reboot("a").wait()

    assert [call.operation for call in calls] == ["reboot"]
    assert calls[0].error.startswith("Timeout")
    assert calls[0].seconds >= 0.1


def test_a_call_is_told_when_it_begins_for_nobody_may_wait_for_its_end(odd: Driver) -> None:
    odd.reboot("vm")
    assert begun == ["reboot"]
    assert calls == []


def test_errors_are_recorded_without_secrets(odd: Driver) -> None:
    with pytest.raises(NotFound):
        odd.addresses("hunter22")

    assert calls[0].error.startswith("NotFound: no *** for ***")
    assert "hunter22" not in calls[0].model_dump_json()


def test_what_is_recorded_is_bounded(odd: Driver) -> None:
    with pytest.raises(NotFound):
        odd.addresses("x" * 5000)

    assert len(calls[0].arguments) <= 300
    assert len(calls[0].error) <= 400


def test_an_operation_took_as_long_as_it_was_seen_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, over = [100.0], threading.Event()
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Move(SimpleNamespace):
        def done(self) -> bool:
            return over.is_set()

        def wait(self, _: float) -> None:
            clock[0] += 2.0 if not over.is_set() else 0.0

    def operation() -> RecordedOperation:
        over.clear()
        move = Move(progress=lambda: None, abort=lambda: None)
        return RecordedOperation(move, Tape(calls.append, begun.append, Mask([]), lambda: 0.1), "migrate", "", 0.5)

    watched = operation()
    clock[0] += 3.0
    watched.wait()
    assert calls[-1].seconds == 5.5, "of the call, while something else was done, and until it ended"

    ended = operation()
    clock[0] += 3.0
    ended.progress()
    clock[0] += 40.0
    over.set()
    ended.wait()
    assert calls[-1].seconds == 3.5, "what came after it was last seen under way is not its own"
