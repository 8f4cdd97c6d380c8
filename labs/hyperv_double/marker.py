"""Every HTTP answer of the double says that it is one, so that no run can take it for a Windows host."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from conformance.errors import HostDown, LabError

HEADER = "X-Hvconform-Double"
VALUE = "own-double"


def refuse(url: str, *, seconds: float = 15.0) -> None:
    """Ask a WinRM endpoint, without a login, whether it is our double. For labs whose evidence is `hardware`.

    Args:
        url: The endpoint.
        seconds: How long to wait for it.

    Raises:
        LabError: It is the double: what a run showed on it would not be about Hyper-V.
        HostDown: It does not answer.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (5986 if parts.scheme == "https" else 5985)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # nothing secret is sent, and whoever is there may say what it likes: only the marker is looked for
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("POST", parts.path or "/wsman", body=b"", headers={"Content-Length": "0"})
        headers = dict(connection.getresponse().getheaders())
    except (OSError, http.client.HTTPException) as error:
        raise HostDown(f"{url} does not answer: {error}") from None
    finally:
        connection.close()
    check(headers, url)


def check(headers: Mapping[str, str], url: str) -> None:
    """Raise `LabError` if an answer's headers carry the marker."""
    if any(name.lower() == HEADER.lower() for name in headers):
        raise LabError(
            f"{url} is hvconform's own double of a Hyper-V host; a run on it cannot claim evidence of hardware",
            hint="use the lab hyperv-double, or the URL of a Windows host",
        )
