"""The driver as tests get it: every call is timed, put into the run record and made a step of the report.

It also gives `Operation.wait` its default deadline, made from the lab's measured speed, and keeps the latest calls for
whoever has to explain a timeout.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import allure

from conformance.driver import Driver, Operation
from conformance.errors import HarnessError, UntypedError
from conformance.model import Progress
from conformance.plugin.masking import Mask
from conformance.record import DriverCall

T = TypeVar("T")

_ARGUMENTS = 300
_RESULT = 400
_HISTORY = 60
_PLAIN = frozenset({"connect", "facet", "name", "option_names"})
"""What the wrapper has itself or passes through."""


@dataclass(slots=True)
class Tape:
    """Where calls go: the run record, and a short history kept in memory.

    Args:
        write: Takes a finished call.
        begun: Told the name of a call that begins; what it starts may never be waited for.
        mask: Hides secrets.
        deadline_s: The deadline of an operation that a test waits for without saying how long.
    """

    write: Callable[[DriverCall], None]
    begun: Callable[[str], None]
    mask: Mask
    deadline_s: Callable[[], float]
    item: str = ""
    history: deque[str] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    start: float = field(default_factory=time.perf_counter)

    def begin(self, item: str) -> None:
        """What follows belongs to `item`."""
        self.item = item
        self.history.clear()
        self.start = time.perf_counter()

    def done(self, operation: str, arguments: str, seconds: float, outcome: str, error: BaseException | None) -> None:
        said = "" if error is None else self.mask(f"{type(error).__name__}: {error}")[:_RESULT]
        at = time.perf_counter() - self.start
        self.history.append(f"{at:8.2f} s  {operation}({arguments}) -> {said or outcome}  [{seconds:.2f} s]")
        self.write(DriverCall(item=self.item, operation=operation, arguments=arguments, seconds=seconds, error=said))


class RecordedOperation:
    """An operation whose whole time, from the call to its end, is one entry of the record.

    When it ended nobody knows who only looks now and then: at the latest when it was waited for, or else, when it was
    over by then, after it was last seen under way.
    """

    def __init__(self, inner: Operation[Any], tape: Tape, operation: str, arguments: str, seconds: float) -> None:
        self._inner = inner
        self._tape = tape
        self._operation = operation
        self._arguments = arguments
        self._seen = time.perf_counter()
        self._start = self._seen - seconds

    def wait(self, deadline_s: float | None = None) -> Any:
        limit = self._tape.deadline_s() if deadline_s is None else deadline_s
        unseen = 0.0 if self._under_way() else time.perf_counter() - self._seen
        error: BaseException | None = None
        result: Any = None
        try:
            with allure.step(f"{self._operation}: wait"):
                result = _typed(lambda: self._inner.wait(limit))
            return result
        except BaseException as caught:
            error = caught
            raise
        finally:
            end = time.perf_counter()
            seconds = end - self._start - unseen
            self._tape.done(self._operation, self._arguments, seconds, _shown(result, self._tape.mask), error)
            self._start = self._seen = end

    def progress(self) -> Progress:
        self._under_way()
        return self._inner.progress()

    def done(self) -> bool:
        return not self._under_way()

    def _under_way(self) -> bool:
        under_way = not _typed(self._inner.done)
        if under_way:
            self._seen = time.perf_counter()
        return under_way

    def abort(self) -> None:
        with allure.step(f"{self._operation}: abort"):
            _timed(self._tape, f"{self._operation}.abort", self._arguments, self._inner.abort)


def record(inner: Driver, tape: Tape) -> Driver:
    """`inner` with every call recorded; it implements the facets that `inner` does, and no others."""
    return cast(Driver, _wrap(inner, tape))


def _wrap(inner: Any, tape: Tape) -> Any:
    cls = type(inner)
    methods: dict[str, Any] = {
        name: _method(name)
        for name in dir(cls)
        if not name.startswith("_") and name not in _PLAIN and callable(getattr(cls, name, None))
    }
    methods["name"] = getattr(inner, "name", cls.__name__)
    methods["option_names"] = getattr(inner, "option_names", frozenset())
    methods["facet"] = _facet
    methods["connect"] = classmethod(_no_second_connection)
    # a class of its own for each driver class: isinstance against a facet looks for the methods on the class
    made = type(f"Recorded{cls.__name__}", (Driver,) if isinstance(inner, Driver) else (), methods)
    wrapper: Any = object.__new__(made)
    wrapper._inner, wrapper._tape = inner, tape
    return wrapper


def _no_second_connection(cls: type) -> Driver:
    raise TypeError(f"{cls.__name__} wraps a connected driver")


def _facet(self: Any, kind: type[T]) -> T:
    found = self._inner.facet(kind)
    return self if found is self._inner else _wrap(found, self._tape)  # type: ignore[no-any-return]


def _method(name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        tape: Tape = self._tape
        arguments = _arguments(args, kwargs, tape.mask)
        tape.begun(name)
        start = time.perf_counter()
        with allure.step(f"{name}({arguments})"):
            try:
                result = _typed(lambda: getattr(self._inner, name)(*args, **kwargs))
            except BaseException as error:
                tape.done(name, arguments, time.perf_counter() - start, "", error)
                raise
        seconds = time.perf_counter() - start
        if _is_operation(result):
            return RecordedOperation(result, tape, name, arguments, seconds)
        tape.done(name, arguments, seconds, _shown(result, tape.mask), None)
        return result

    call.__name__ = name
    return call


def _typed(call: Callable[[], T]) -> T:
    """Call into the driver; what it raises outside its error tree must not pass for a fault of the harness."""
    try:
        return call()
    except HarnessError:
        raise
    except Exception as error:
        raise UntypedError(f"the driver raised {type(error).__name__}: {error}") from error


def _timed(tape: Tape, operation: str, arguments: str, work: Callable[[], None]) -> None:
    start = time.perf_counter()
    error: BaseException | None = None
    try:
        work()
    except BaseException as caught:
        error = caught
        raise
    finally:
        tape.done(operation, arguments, time.perf_counter() - start, "done", error)


def _is_operation(result: Any) -> bool:
    return all(callable(getattr(result, name, None)) for name in ("wait", "progress", "abort", "done"))


def _arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any], mask: Mask) -> str:
    parts = [*(_text(value) for value in args), *(f"{key}={_text(value)}" for key, value in kwargs.items())]
    return _cut(mask(", ".join(parts)), _ARGUMENTS)


def _shown(result: Any, mask: Mask) -> str:
    return _cut(mask(_text(result)), _RESULT)


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else repr(value)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
