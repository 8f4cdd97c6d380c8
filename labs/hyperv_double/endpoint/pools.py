"""Runspace pools: PSRP by psrpcore, with pipelines handed to the engine as the structured commands that they are."""

from __future__ import annotations

import base64
import queue
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import psrpcore
from psrpcore.types import (
    ErrorCategory,
    ErrorCategoryInfo,
    ErrorRecord,
    NETException,
    PSInvocationState,
)

from labs.hyperv_double import engine as model
from labs.hyperv_double import manifest
from labs.hyperv_double.endpoint import soap
from labs.hyperv_double.endpoint.shells import REFUSAL, Answers, receive_id, run_shaped, signed
from labs.hyperv_double.endpoint.soap import Fault, Request

FRAGMENT = 32 << 10


class Pool:
    """A runspace pool of one user, with one runspace."""

    def __init__(self, engine: model.Engine, session: model.Session, creation: str) -> None:
        self.session = session
        self._engine = engine
        self._pool = psrpcore.ServerRunspacePool()
        self._lock = threading.RLock()
        self._output: dict[str, queue.SimpleQueue[bytes | None]] = {"": queue.SimpleQueue()}
        self._stops: dict[str, threading.Event] = {}
        self._input: dict[str, queue.SimpleQueue[str | None]] = {}
        self._done: set[str] = set()
        self._feed(creation, None)

    @property
    def operations(self) -> int:
        return len(self._stops) - len(self._done)

    def _feed(self, data: str, pipeline: uuid.UUID | None) -> None:
        """Take a message of the client in, and start the pipelines that it completes."""
        with self._lock:
            raw = base64.b64decode(data)
            self._pool.receive_data(psrpcore.PSRPPayload(raw, psrpcore.StreamType.default, pipeline))
            while (event := self._pool.next_event()) is not None:
                if isinstance(event, psrpcore.CreatePipelineEvent):
                    # before anything of it can come
                    self._input[str(event.pipeline_id).upper()] = queue.SimpleQueue()
                    threading.Thread(
                        target=self._run, args=(event.pipeline_id, event.pipeline), name="double-pool", daemon=True
                    ).start()
                elif isinstance(event, psrpcore.PipelineInputEvent):
                    self._input[str(event.pipeline_id).upper()].put(str(event.data))
                elif isinstance(event, psrpcore.EndOfPipelineInputEvent):
                    self._input[str(event.pipeline_id).upper()].put(None)
            self._flush()

    def _flush(self) -> None:
        while (payload := self._pool.data_to_send(FRAGMENT)) is not None:
            id = str(payload.pipeline_id).upper() if payload.pipeline_id else ""
            self._output[id].put(payload.data)

    def _run(self, id: uuid.UUID, pipeline: Any) -> None:
        key = str(id).upper()
        served = self._pool.pipeline_table[id]
        with self._lock:
            served.start()
            self._flush()
        if [manifest.script_name(str(command.command_text)) for command in pipeline.commands] == ["pool"]:
            outcome, texts = self._answer(key, served), list[str]()
        else:
            outcome, texts = self._statements(pipeline.commands, self._stops[key])
        with self._lock:
            if self._stops[key].is_set():
                return
            for warning in outcome.warnings:
                served.write_warning(warning)
            for text in texts:
                served.write_output(text)
            if outcome.error is not None:
                served._change_state(PSInvocationState.Failed, error=_record(outcome.error))
            else:
                served.complete()
            self._flush()
            self._finished(key)

    def _answer(self, key: str, served: Any) -> model.Outcome:
        """`pool.ps1`: an answer for each request, until the input ends."""
        answers = Answers(self._engine, self.session, self._stops[key])
        while (text := self._input[key].get()) is not None:
            try:
                answer = answers.answer(text)
            except ValueError as error:
                return model.Outcome(error=model.ErrorRecord(str(error), "pool.ps1", "InvalidData"))
            if answer is None:
                continue
            with self._lock:
                if self._stops[key].is_set():
                    break
                served.write_output(answer)
                self._flush()
        return model.Outcome()

    def _finished(self, key: str) -> None:
        self._done.add(key)
        self._output[key].put(None)

    def _statements(self, commands: Sequence[Any], stop: threading.Event) -> tuple[model.Outcome, list[str]]:
        steps: list[model.Command] = []
        outcome, texts = model.Outcome(), list[str]()
        for command in commands:
            parameters = {str(name).lstrip("-"): plain(value) for name, value in command.parameters}
            name = str(command.command_text)
            if command.is_script:
                known = manifest.script_name(name)
                if known is None:
                    return model.Outcome(error=model.ErrorRecord(REFUSAL, "NoPowerShell", "NotImplemented")), []
                name = known
            steps.append(model.Command(name, parameters, script=bool(command.is_script)))
            if command.end_of_statement:
                outcome, made = self._statement(steps, stop)
                texts += made
                steps = []
                if outcome.error is not None:
                    return outcome, texts
        if steps:
            outcome, made = self._statement(steps, stop)
            texts += made
        return outcome, texts

    def _statement(self, steps: Sequence[model.Command], stop: threading.Event) -> tuple[model.Outcome, list[str]]:
        if [step.name for step in steps] == ["Set-Variable"]:
            return model.Outcome(), []  # a preference of the runspace, which no engine has
        return run_shaped(self._engine, self.session, steps, stop)

    def command(self, request: Request, id: str) -> str:
        line = request.body.find("rsp:CommandLine", soap.NS)
        if line is None:
            raise Fault(soap.BAD_REQUEST, "s:Sender", "There is no CommandLine.")
        key = line.get("CommandId", id).upper()
        data = "".join(item.text or "" for item in line.findall("rsp:Arguments", soap.NS))
        with self._lock:
            self._output[key] = queue.SimpleQueue()
            self._stops[key] = threading.Event()
            psrpcore.ServerPipeline(self._pool, uuid.UUID(key))
            self._feed(data, uuid.UUID(key))
        return f"<rsp:CommandResponse><rsp:CommandId>{key}</rsp:CommandId></rsp:CommandResponse>"

    def send(self, request: Request) -> str:
        stream = request.body.find("rsp:Send/rsp:Stream", soap.NS)
        if stream is None:
            raise Fault(soap.BAD_REQUEST, "s:Sender", "There is no Stream.")
        id = stream.get("CommandId")
        self._feed(stream.text or "", uuid.UUID(id) if id else None)
        return "<rsp:SendResponse/>"

    def receive(self, request: Request) -> str:
        id = receive_id(request)
        waiting = self._output.get(id.upper())
        if waiting is None:
            raise Fault(soap.SHELL_NOT_FOUND, "w:InvalidSelectors", f"The command {id} was not found.")
        chunks, done = [], False
        budget = (request.envelope - 3000) * 3 // 4
        try:
            item = waiting.get(timeout=request.seconds)
            while item is not None:
                chunks.append(item)
                budget -= len(item)
                if budget < FRAGMENT:
                    break
                item = waiting.get_nowait()
            done = item is None
        except queue.Empty:
            if not chunks:
                raise soap.timed_out() from None
        body = "".join(soap.stream("stdout", id, base64.b64encode(data).decode()) for data in chunks)
        if id:
            body += soap.state(id, exit_code=0 if done else None)
        return f"<rsp:ReceiveResponse>{body}</rsp:ReceiveResponse>"

    def signal(self, request: Request) -> str:
        signal = request.body.find("rsp:Signal", soap.NS)
        key = "" if signal is None else signal.get("CommandId", "").upper()
        stop = self._stops.get(key)
        if stop is not None and not stop.is_set():
            stop.set()
            self._end_input(key)
            with self._lock:
                if key not in self._done:
                    self._pool.pipeline_table[uuid.UUID(key)].stop()
                    self._flush()
                    self._finished(key)
        return "<rsp:SignalResponse/>"

    def _end_input(self, key: str) -> None:
        if key in self._input:
            self._input[key].put(None)

    def end(self) -> None:
        for key, stop in self._stops.items():
            stop.set()
            self._end_input(key)


def plain(value: Any) -> object:
    """A CLIXML value as the engine wants it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


def _record(error: model.ErrorRecord) -> ErrorRecord:
    exception = NETException(Message=error.message, HResult=signed(error.hresult))
    exception.PSObject.type_names = [error.exception, *exception.PSTypeNames]
    return ErrorRecord(
        Exception=exception,
        CategoryInfo=ErrorCategoryInfo(Category=ErrorCategory[error.category]),
        FullyQualifiedErrorId=error.error_id,
    )
