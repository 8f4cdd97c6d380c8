"""The live view sees in the record what a recorder writes there."""

from __future__ import annotations

from pathlib import Path

from conformance.cli.progress import Progress, line
from conformance.record import ItemFinished, ItemPlanned, ItemStarted, Recorder, Verdict


def test_the_view_follows_a_record_as_it_grows(tmp_path: Path) -> None:
    recorder, progress = Recorder(tmp_path / "record", "gw0"), Progress(tmp_path)
    for number in range(2):
        recorder.write(ItemPlanned(item=f"t{number}", requirement="boot.cpu-count", target="kvm", provenance="booted"))
    recorder.write(ItemStarted(item="t0", worker="gw0"))
    assert progress.look() == []
    assert set(progress.planned) == {"t0", "t1"}
    assert set(progress.running) == {"gw0"}

    recorder.write(
        ItemFinished(
            item="t0",
            requirement="boot.cpu-count",
            target="kvm",
            provenance="booted",
            verdict=Verdict.FAIL,
            seconds=1.25,
            message="assert 1 == 2\x1b[2J",
        )
    )
    (event,) = progress.look()
    recorder.close()

    assert progress.counts == {"fail": 1}
    assert not progress.running
    assert progress.remaining_s() == 1.25
    assert line(event) == "fail         boot.cpu-count  kvm booted  1.2 s  assert 1 == 2[2J"
