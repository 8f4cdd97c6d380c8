"""Hostile text is made harmless, and innocent text stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.markdown import escape
from reports.table import harmless
from reports.text import duration, one_line, plain, write_atomic


@pytest.mark.parametrize(
    ("hostile", "safe"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b1mC1\x9c", "C1\ufffd"),
        ("\x1bP+q\x1b\\after", "after"),
        ("\x1b]never ended\nnext line", "\nnext line"),
        ("\x1bc\x1b(0", ""),
        ("a\x00b\x08c", "a\ufffdb\ufffdc"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("user\u202egnp.exe", "user\ufffdgnp.exe"),
        ("\ud800", "\ufffd"),
        ("naïve 日本 🙂\ttab", "naïve 日本 🙂\ttab"),
    ],
)
def test_plain(hostile: str, safe: str) -> None:
    assert plain(hostile) == safe


def test_plain_keeps_the_end_and_says_what_it_cut() -> None:
    assert plain("x" * 90 + "the end", 7) == "[cut: 90 characters before this]\nthe end"
    assert plain("the end", 7) == "the end"


def test_one_line_keeps_the_beginning() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 11, 10) == "x" * 9 + "…"
    assert one_line("x" * 10, 10) == "x" * 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0204, "20 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "|calc", "\t=1", "\uff1d1", "%x"])
def test_a_spreadsheet_sees_no_formula(formula: str) -> None:
    assert harmless(formula) == f"'{formula}"


def test_plain_words_are_left_alone_in_csv() -> None:
    assert harmless("reboot.exactly-once = 2") == "reboot.exactly-once = 2"


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "![x](http://evil/pixel)",
        "[click](javascript:x)",
        "a | b | c",
        "# heading",
        "`code`",
        "@maintainer #12",
        "https://evil.example",
        "line\n\n- two",
        "&lt;b&gt;",
    ],
)
def test_markdown_stays_literal(hostile: str) -> None:
    text = escape(hostile)
    assert not set("<>[]|`@#!*_") & set(text.replace("&#", ""))
    assert "\n" not in text
    assert "://" not in text


def test_markdown_leaves_ids_readable() -> None:
    assert escape("reboot.exactly-once") == "reboot.exactly-once"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "x.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]
    assert path.read_text() == "old"
