"""Builds run records by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conformance.model import Evidence
from conformance.record import (
    Attachment,
    DriverCall,
    Event,
    Figure,
    GuestBoot,
    ItemFinished,
    ItemPlanned,
    ItemStarted,
    Measured,
    Recorder,
    RunFinished,
    RunStarted,
    TargetSeen,
    Verdict,
)


@dataclass(frozen=True)
class Rule:
    """A requirement of a contract made for a test."""

    id: str
    level: str = "must"
    capability: str | None = None
    statement: str = "It holds."

    @property
    def area(self) -> str:
        return self.id.partition(".")[0]


CONTRACT = (
    Rule("boot.cpu-count", statement="The guest sees as many CPUs as were asked for."),
    Rule("boot.memory-size"),
    Rule("reboot.exactly-once"),
    Rule("pause.freezes-vcpus", level="conditional", capability="pause"),
    Rule("time.drift", level="should"),
)


class Record:
    """Writes events, each one second after the one before."""

    def __init__(self, folder: Path, run: str = "r1", began: float = 1_790_000_000.0) -> None:
        self.folder = folder
        self.now = began
        self._files: dict[str, Recorder] = {}
        self.write(
            RunStarted(
                time=self.tick(),
                run=run,
                hvconform="0.1.0",
                contract="1.0",
                arguments=["--lab", "kvm"],
                python="3.11.2",
                machine="x86_64 Linux",
                packages={"pytest": "9.2.0"},
            )
        )

    def tick(self) -> float:
        self.now += 1
        return self.now

    def write(self, event: Event, process: str = "controller") -> None:
        if process not in self._files:
            self._files[process] = Recorder(self.folder, process)
        self._files[process].write(event)

    def target(
        self,
        target: str = "kvm",
        evidence: Evidence = Evidence.NESTED,
        *,
        defect: str = "",
        boot: float | None = 2.1,
        note: str = "TCG",
        facts: dict[str, str] | None = None,
    ) -> None:
        self.write(
            TargetSeen(
                time=self.tick(),
                target=target,
                lab="kvm",
                driver="libvirt",
                evidence=evidence,
                evidence_note=note,
                facts=facts or {"hypervisor": "QEMU", "version": "7.2.11", "accelerator": "tcg"},
                capabilities=["pause", "migrate.live"],
                defect=defect,
                boot_seconds=boot,
            )
        )

    def plan(self, requirement: str, target: str = "kvm", provenance: str = "booted", test: str = "test") -> str:
        item = f"suites/test_x.py::{test}[{requirement}-{target}-{provenance}]"
        self.write(
            ItemPlanned(time=self.tick(), item=item, requirement=requirement, target=target, provenance=provenance)
        )
        return item

    def start(self, item: str, worker: str = "gw0") -> None:
        self.write(ItemStarted(time=self.tick(), item=item, worker=worker), worker)

    def call(self, item: str, operation: str, seconds: float, error: str = "", arguments: str = "vm=a") -> None:
        self.write(
            DriverCall(
                time=self.tick(), item=item, operation=operation, arguments=arguments, seconds=seconds, error=error
            ),
            "gw0",
        )

    def boot(self, item: str, seconds: float) -> None:
        self.write(GuestBoot(time=self.tick(), item=item, seconds=seconds), "gw0")

    def measure(
        self, item: str, what: str, value: float, unit: str = "ms", at_most: float | None = None, worker: str = "gw0"
    ) -> None:
        figure = Figure(what=what, value=value, unit=unit, at_most=at_most)
        self.write(Measured(time=self.tick(), item=item, figure=figure), worker)

    def attach(self, item: str, name: str, text: str) -> None:
        self.write(Attachment(time=self.tick(), item=item, name=name, text=text), "gw0")

    def finish(
        self,
        item: str,
        verdict: Verdict = Verdict.PASS,
        message: str = "",
        *,
        detail: str = "",
        residue: tuple[str, ...] = (),
        refusal: str = "",
        seconds: float = 1.5,
        worker: str = "gw0",
    ) -> None:
        requirement, target, provenance = item[item.index("[") + 1 : -1].rsplit("-", 2)
        self.write(
            ItemFinished(
                time=self.tick(),
                item=item,
                requirement=requirement,
                target=target,
                provenance=provenance,
                verdict=verdict,
                seconds=seconds,
                message=message,
                detail=detail,
                residue=list(residue),
                refusal=refusal,
                worker=worker,
            ),
            worker,
        )

    def ran(
        self,
        requirement: str,
        *verdicts: Verdict,
        target: str = "kvm",
        provenance: str = "booted",
        test: str = "test",
        message: str = "",
    ) -> str:
        """Plan an item and run it once for each verdict."""
        item = self.plan(requirement, target, provenance, test)
        for verdict in verdicts:
            self.start(item)
            self.finish(item, verdict, message if verdict is not Verdict.PASS else "")
        return item

    def end(self, exit_code: int = 0) -> Path:
        self.write(RunFinished(time=self.tick(), exit_code=exit_code))
        return self.close()

    def close(self) -> Path:
        for recorder in self._files.values():
            recorder.close()
        return self.folder
