"""Seeded damage to the endpoint's answers: to their bytes, to their SOAP, and to what the streams inside carry."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from random import Random

TEXT = re.compile(rb">([^<>]+)<")
ATTRIBUTE = re.compile(rb'(\w+)="([^"]*)"')
ELEMENT = re.compile(rb"<([\w:]+)[^<>]*/?>")
STREAM = re.compile(rb"(<rsp:Stream[^<>]*>)([A-Za-z0-9+/=]+)(</rsp:Stream>)")

VALUES = [
    b"",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"2150858793",
    b"2150858843",
    b"2150859173",
    b"NaN",
    b"true",
    b"null",
    b"\xff\xfe\x00",
    b"A" * 5000,
    "\u2603\U0001f600".encode(),
    b"&amp;&lt;",
    b"&undefined;",
    b"]]>",
    b"<x/>",
    b"00000000-0000-0000-0000-000000000000",
    b"http://schemas.microsoft.com/wbem/wsman/1/windows/shell/CommandState/Done",
    b"!!!not base64!!!",
]


def flip(random: Random, body: bytes) -> bytes:
    if not body:
        return b"\x00"
    at = random.randrange(len(body))
    return body[:at] + bytes([random.randrange(256)]) + body[at + 1 :]


def cut(random: Random, body: bytes) -> bytes:
    return body[: random.randrange(len(body) + 1)]


def drop(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) + 1)
    return body[:at] + body[at + random.randrange(1, 60) :]


def double(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) + 1)
    return body[: at + random.randrange(1, 200)] + body[at:]


def insert(random: Random, body: bytes) -> bytes:
    at = random.randrange(len(body) + 1)
    return body[:at] + random.choice(VALUES) + body[at:]


def text(random: Random, body: bytes) -> bytes:
    return _one(random, TEXT, body, lambda _: b">" + random.choice(VALUES) + b"<")


def attribute(random: Random, body: bytes) -> bytes:
    return _one(random, ATTRIBUTE, body, lambda match: match[1] + b'="' + random.choice(VALUES) + b'"')


def element(random: Random, body: bytes) -> bytes:
    changed = random.choice([b"", b"<rsp:Stream>", b"<s:Fault>", b"<rsp:Shell/>"])
    return _one(random, ELEMENT, body, lambda _: changed)


def prologue(random: Random, body: bytes) -> bytes:
    return random.choice([b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"\xef\xbb\xbf", b"<?xml version='1.1'?>", b"\r\n"]) + body


def inside(random: Random, body: bytes) -> bytes:
    """Damage what a stream carries: JSON lines, or PSRP fragments with CLIXML."""

    def change(match: re.Match[bytes]) -> bytes:
        try:
            payload = base64.b64decode(match[2])
        except binascii.Error:  # it was damaged before
            return match[0]
        payload = random.choice(INNER)(random, payload)
        return match[1] + base64.b64encode(payload) + match[3]

    return _one(random, STREAM, body, change)


INNER: list[Callable[[Random, bytes], bytes]] = [flip, cut, drop, double, insert, text]
OUTER: list[Callable[[Random, bytes], bytes]] = [*INNER, attribute, element, prologue, inside, inside, inside]


def mutate(random: Random, body: bytes) -> bytes:
    """One to three changes."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        body = random.choice(OUTER)(random, body)
    return body


def _one(random: Random, pattern: re.Pattern[bytes], body: bytes, change: Callable[[re.Match[bytes]], bytes]) -> bytes:
    found = list(pattern.finditer(body))
    if not found:
        return flip(random, body)
    match = random.choice(found)
    return body[: match.start()] + change(match) + body[match.end() :]
