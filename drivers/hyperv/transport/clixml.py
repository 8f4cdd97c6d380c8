"""Reads what PowerShell writes to standard error: CLIXML, with each stream's messages kept apart."""

from __future__ import annotations

import re
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeXml

TAG = b"#< CLIXML"
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")


def messages(data: bytes, stream: str = "Error") -> str:
    """The text of one stream in what a PowerShell process wrote to standard error.

    Args:
        data: Plain text, or CLIXML; the console host writes several documents one after the other.
        stream: ``Error``, ``Warning``, ``Verbose``, ``Debug``.

    Returns:
        Its lines. What is not CLIXML, or is broken CLIXML, is returned as it is, as text.
    """
    if TAG not in data:
        return data.decode("utf-8", "replace").strip()
    texts = []
    for part in data.split(TAG):
        document = part.strip()
        if not document:
            continue
        try:
            root = SafeXml.fromstring(document, forbid_dtd=True)
        except (ParseError, DefusedXmlException, ValueError):
            texts.append(document.decode("utf-8", "replace"))
            continue
        texts.extend(
            unescape(node.text or "")
            for node in root.iter()
            if node.tag.rpartition("}")[2] == "S" and node.get("S", "").lower() == stream.lower()
        )
    return "".join(texts).strip()


def unescape(text: str) -> str:
    """Undo ``_x000D_``: UTF-16 units, of which two may be one character."""
    units = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
