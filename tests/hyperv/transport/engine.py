"""A model of nothing: an engine that repeats what it was asked, and does as it is told."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from labs.hyperv_double.engine import Command, ErrorRecord, Outcome, Session


class Echo:
    """Answers every pipeline with one object for its last element.

    `Fail` ends with the error that its parameters give, `Wait` lasts until it is let go, `Many` writes many objects.
    """

    def __init__(self) -> None:
        self.pipelines: list[list[Command]] = []
        self.sessions: list[Session] = []
        self.stopped = threading.Event()
        self.entered = threading.Event()
        self.go = threading.Event()

    def run(self, session: Session, pipeline: Sequence[Command], *, stop: threading.Event) -> Outcome:
        self.pipelines.append(list(pipeline))
        self.sessions.append(session)
        last = pipeline[-1]
        given = {name: value for name, value in last.parameters.items() if name != "ErrorAction"}
        if last.name == "Fail":
            return Outcome(error=ErrorRecord(**given))  # type: ignore[arg-type]
        if last.name == "Wait":
            self.entered.set()
            while not self.go.wait(0.02):
                if stop.is_set():
                    self.stopped.set()
                    return Outcome()
        if last.name == "Warn":
            return Outcome([{"Name": "warned"}], ["job completed with warnings", "and \u2603"])
        if last.name == "Many":
            return Outcome([{"Index": i, "Text": "x" * 1000} for i in range(int(str(given["Count"])))])
        if last.name == "Nothing":
            return Outcome()
        if last.name == "Bare":
            return Outcome(["text", 7, None, [1, 2]])
        return Outcome([{"Name": last.name, "Script": last.script, "Parameters": given}])
