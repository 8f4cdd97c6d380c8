"""Makes text of guests and hosts safe to show: no control characters, no escapes, bounded."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

MAX_MESSAGE = 2_000
MAX_DETAIL = 64 * 1024

# CSI (colours, cursor), OSC (titles, links, clipboard), DCS/SOS/PM/APC strings, then the short escapes (ECMA-48).
# A string without its terminator ends at its line's end: it must not swallow the rest of a console.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# Everything else that moves a cursor, hides text or reverses it (bidirectional overrides: CVE-2021-42574), and what
# no XML or UTF-8 document can hold: lone surrogates and the two non-characters.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufffe\uffff]"
)


def plain(text: str, limit: int = MAX_DETAIL) -> str:
    """The text without terminal escapes, other control characters as U+FFFD, and its last `limit` characters."""
    cut = len(text) - limit
    kept = text[cut:] if cut > 0 else text
    safe = _CONTROL.sub("\ufffd", _ESCAPE.sub("", kept.replace("\r\n", "\n").replace("\r", "\n")))
    return f"[cut: {cut} characters before this]\n{safe}" if cut > 0 else safe


def one_line(text: str, limit: int = MAX_MESSAGE) -> str:
    """The text on one line, its first `limit` characters: a message says what happened at its start."""
    line = " ".join(plain(text[: 2 * limit], 2 * limit).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def duration(seconds: float) -> str:
    """A duration as people read it: ``"40 ms"``, ``"2.1 s"``, ``"3 min 5 s"``, ``"2 h 10 min"``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, singular: str, plural: str = "") -> str:
    """``"1 item"``, ``"2 items"``."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def write_atomic(path: Path, text: str) -> Path:
    """Write a file so that a reader finds the old or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
