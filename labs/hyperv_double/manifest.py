"""The double's capability manifest: what a result on it can rest on, and which scripts it recognises."""

from __future__ import annotations

import functools
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("manifest.toml")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest.

    Args:
        evidence: What its results are labelled as.
        shows: What it can show, and how.
        cannot: What it cannot, and why.
        not_testable: Requirements of the contract that nothing here can show, and why.
        scripts: Name of each script of the project that it knows, by SHA-256.
    """

    evidence: str
    shows: Mapping[str, str]
    cannot: Mapping[str, str]
    not_testable: Mapping[str, str]
    scripts: Mapping[str, str]


@functools.cache
def load() -> Manifest:
    """Read the manifest of this package."""
    raw = tomllib.loads(FILE.read_text(encoding="utf-8"))
    scripts = {digest: name for name, digest in raw["scripts"].items()}
    return Manifest(raw["evidence"], raw["shows"], raw["cannot"], raw["not-testable"], scripts)


def script_name(text: str) -> str | None:
    """Which script of the project a text is; None if it is none."""
    return load().scripts.get(hashlib.sha256(text.encode()).hexdigest())
