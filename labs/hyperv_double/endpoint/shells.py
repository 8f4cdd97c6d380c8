"""WinRS shells: processes with streams, of which only the project's `dispatch.ps1` is known, spoken by Python."""

from __future__ import annotations

import base64
import binascii
import json
import queue
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from labs.hyperv_double import manifest
from labs.hyperv_double.endpoint import shape, soap
from labs.hyperv_double.endpoint.soap import Fault, Request
from labs.hyperv_double.engine import Command, Engine, ErrorRecord, Outcome, Session

COMMAND_LINE = 8191
"""What cmd.exe takes."""

ENCODED = re.compile(r"-e(?:nc|ncodedcommand)?\s+(\S+)", re.IGNORECASE)

REFUSAL = "this double runs no PowerShell; it knows the scripts that its manifest lists"

KNOWN_ONCE: dict[str, Sequence[Command]] = {}
"""Text of scripts that run once and end, by benchmarks: what plain run_ps sends, and the pipeline it stands for."""


class Process:
    """A command in a shell: streams, an exit code, and what computes them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._output: list[tuple[str, bytes]] = []
        self._exit: int | None = None
        self.stop = threading.Event()

    def write(self, stream: str, data: bytes) -> None:
        with self._changed:
            if self._exit is None:
                self._output.append((stream, data))
                self._changed.notify_all()

    def end(self, exit_code: int) -> None:
        with self._changed:
            if self._exit is None:
                self._exit = exit_code
            self._changed.notify_all()

    def kill(self) -> None:
        self.stop.set()
        self.end(0xC000013A)  # STATUS_CONTROL_C_EXIT

    def feed(self, data: bytes, *, last: bool) -> None:
        """Input; a process that reads none loses it."""

    def silence(self) -> None:
        """Lose all output, and end with success."""
        with self._changed:
            self._output.clear()
            self._exit = 0
            self._changed.notify_all()

    def truncate(self) -> None:
        """Lose the second half of the output to come, and end with success."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._output) or self._exit is not None, timeout=10)
            if self._output:
                stream, data = self._output[0]
                self._output = [(stream, data[: len(data) // 2])]
            self._exit = 0

    def take(self, seconds: float, budget: int) -> tuple[list[tuple[str, bytes]], int | None] | None:
        """Output that has come, at most `budget` bytes, and the exit code once all is taken; None if nothing came."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._output) or self._exit is not None, timeout=seconds):
                return None
            taken = []
            while self._output and budget > 0:
                stream, data = self._output.pop(0)
                if len(data) > budget:
                    self._output.insert(0, (stream, data[budget:]))
                    data = data[:budget]
                budget -= len(data)
                taken.append((stream, data))
            return taken, None if self._output else self._exit


class Answers:
    """`answer.ps1`: JSON requests, JSON answers. `stop` is set when a pipeline under way is to end."""

    def __init__(self, engine: Engine, session: Session, stop: threading.Event) -> None:
        self._engine = engine
        self._session = session
        self._stop = stop
        self._names: dict[str, str] = {}

    def answer(self, text: str | bytes) -> str | None:
        """The answer to a request, if it has one; raises `ValueError` for what is no request."""
        try:
            answer = self._answer(json.loads(text))
        except (KeyError, TypeError) as error:
            raise ValueError(f"answer.ps1: {error}") from None
        return None if answer is None else json.dumps(answer, ensure_ascii=True, separators=(",", ":"))

    def _answer(self, request: Mapping[str, Any]) -> object:
        if "define" in request:
            name = manifest.script_name(request["text"])
            if name is None:
                raise ValueError(REFUSAL)
            self._names[request["define"]] = name
            return None
        steps = [self._command(step) for step in request["pipeline"]]
        outcome, texts = run_shaped(self._engine, self._session, steps, self._stop)
        answer: dict[str, object] = {
            "id": request["id"],
            "ok": outcome.error is None,
            "warnings": list(outcome.warnings),
        }
        if outcome.error is None:
            answer["objects"] = [json.loads(text) for text in texts]
        else:
            error = outcome.error
            answer["error"] = {
                "message": error.message,
                "id": error.error_id,
                "category": error.category,
                "hresult": signed(error.hresult),
                "exception": error.exception,
            }
        return answer

    def _command(self, step: Mapping[str, Any]) -> Command:
        if "script" in step:
            return Command(self._names[step["script"]], step["parameters"], script=True)
        return Command(step["cmdlet"], step["parameters"])


class Dispatch(Process):
    """`dispatch.ps1`: a request a line, an answer a line."""

    def __init__(self, engine: Engine, session: Session) -> None:
        super().__init__()
        self._answers = Answers(engine, session, self.stop)
        self._buffer = b""
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="double-dispatch", daemon=True).start()

    def feed(self, data: bytes, *, last: bool) -> None:
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._lines.put(line)
        if last:
            self._lines.put(None)

    def kill(self) -> None:
        super().kill()
        self._lines.put(None)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                answer = self._answers.answer(line)
            except ValueError as error:
                self.write("stderr", clixml(str(error)))
                self.end(1)
                return
            if answer is not None:
                self.write("stdout", answer.encode() + b"\r\n")
        self.end(0)


def run_shaped(
    engine: Engine, session: Session, steps: Sequence[Command], stop: threading.Event
) -> tuple[Outcome, list[str]]:
    """Run a pipeline whose last element may be `shape.ps1`, which is the endpoint's, not the engine's."""
    select: Sequence[str] = ()
    depth, shaped = 2, False
    if steps and steps[-1].script and steps[-1].name == "shape":
        shaped = True
        parameters = steps[-1].parameters
        select = [str(name) for name in _sequence(parameters.get("Select"))]
        depth = int(str(parameters.get("Depth", 2)))
        steps = steps[:-1]
    if not steps:
        return Outcome(error=ErrorRecord("The pipeline is empty.", "Empty", "InvalidOperation")), []
    outcome = engine.run(session, steps, stop=stop)
    if outcome.error is not None:
        return outcome, []
    if not shaped and all(isinstance(item, str) for item in outcome.objects):
        return outcome, [str(item) for item in outcome.objects]  # text, as ConvertTo-Json writes it
    return outcome, shape.texts(outcome.objects, select, depth)


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [] if value is None else [value]


def signed(hresult: int) -> int:
    """An HRESULT as .NET shows it."""
    return hresult - (1 << 32) if hresult >= 1 << 31 else hresult


def clixml(message: str) -> bytes:
    """An error as PowerShell writes it to standard error."""
    text = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        b'#< CLIXML\r\n<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
        b'<S S="Error">' + text.encode() + b"_x000D__x000A_</S></Objs>"
    )


class Shell:
    """A cmd shell of one user."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self.session = session
        self._engine = engine
        self._processes: dict[str, Process] = {}
        self.used = time.monotonic()

    @property
    def operations(self) -> int:
        """Commands that count against the user's quota: all ever started here, as on Windows, where a terminate signal
        on a text shell does not take one off."""
        return len(self._processes)

    def command(self, request: Request, id: str) -> str:
        line = request.body.find("rsp:CommandLine", soap.NS)
        if line is None:
            raise Fault(soap.BAD_REQUEST, "s:Sender", "There is no CommandLine.")
        words = [line.findtext("rsp:Command", "", soap.NS)]
        words += [item.text or "" for item in line.findall("rsp:Arguments", soap.NS)]
        self._processes[id] = self._start(" ".join(words))
        return f"<rsp:CommandResponse><rsp:CommandId>{id}</rsp:CommandId></rsp:CommandResponse>"

    def _start(self, line: str) -> Process:
        process = Process()
        if len(line) > COMMAND_LINE:
            process.write("stderr", b"The command line is too long.\r\n")
            process.end(1)
            return process
        script = decoded(line)
        if script in KNOWN_ONCE:
            outcome, texts = run_shaped(self._engine, self.session, KNOWN_ONCE[script], process.stop)
            process.write("stdout", ("[" + ",".join(texts) + "]").encode())
            process.end(0 if outcome.error is None else 1)
            return process
        if script is None or manifest.script_name(script) != "dispatch":
            process.write("stderr", clixml(REFUSAL))
            process.end(1)
            return process
        return Dispatch(self._engine, self.session)

    def process(self, id: str) -> Process:
        found = self._processes.get(id)
        if found is None:
            raise Fault(soap.SHELL_NOT_FOUND, "w:InvalidSelectors", f"The command {id} was not found.")
        return found

    def send(self, request: Request) -> str:
        stream = request.body.find("rsp:Send/rsp:Stream", soap.NS)
        if stream is None:
            raise Fault(soap.BAD_REQUEST, "s:Sender", "There is no Stream.")
        data = base64.b64decode(stream.text or "")
        self.process(stream.get("CommandId", "")).feed(data, last=stream.get("End", "").lower() == "true")
        return "<rsp:SendResponse/>"

    def receive(self, request: Request) -> str:
        id = receive_id(request)
        # base64 makes four bytes of three, and the envelope has to fit around it
        taken = self.process(id).take(request.seconds, (request.envelope - 3000) * 3 // 4)
        if taken is None:
            raise soap.timed_out()
        chunks, exit_code = taken
        body = "".join(soap.stream(name, id, base64.b64encode(data).decode()) for name, data in chunks)
        if exit_code is not None:
            body += soap.stream("stdout", id, "", end=True) + soap.stream("stderr", id, "", end=True)
        return f"<rsp:ReceiveResponse>{body}{soap.state(id, exit_code=exit_code)}</rsp:ReceiveResponse>"

    def signal(self, request: Request) -> str:
        signal = request.body.find("rsp:Signal", soap.NS)
        if signal is not None:
            self.process(signal.get("CommandId", "")).kill()
        return "<rsp:SignalResponse/>"

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()


def receive_id(request: Request) -> str:
    """The command that a Receive is about; empty: the shell itself."""
    stream = request.body.find("rsp:Receive/rsp:DesiredStream", soap.NS)
    return "" if stream is None else stream.get("CommandId", "")


def decoded(line: str) -> str | None:
    """The script of a PowerShell command line."""
    match = ENCODED.search(line)
    if match is None:
        return None
    try:
        return base64.b64decode(match[1], validate=True).decode("utf-16-le")
    except (binascii.Error, UnicodeDecodeError):
        return None
