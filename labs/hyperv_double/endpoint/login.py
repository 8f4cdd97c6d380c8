"""Logging in to the endpoint: Basic, and NTLM with channel binding and message encryption, by pyspnego's acceptor."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import struct
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import spnego
import spnego.channel_bindings
import spnego.exceptions
from spnego._ntlm_raw.crypto import ntowfv1

from labs.hyperv_double.engine import Auth

_ENVIRONMENT = threading.Lock()
"""pyspnego's acceptor looks accounts up in a file that an environment variable names."""

BOUNDARY = b"--Encrypted Boundary"
PROTOCOL = "application/HTTP-SPNEGO-session-encrypted"
SOAP_TYPE = "application/soap+xml;charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in.

    Args:
        password: The password.
        expired: Whether it has expired: then the login is refused, as Windows does, without saying why.
    """

    password: str
    expired: bool = False


class Accounts:
    """The accounts of an endpoint; the file of their NTLM hashes lives as long as it does."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self._accounts = dict(accounts)
        self._folder = tempfile.TemporaryDirectory(prefix="hvconform-double-")
        self.file = Path(self._folder.name) / "ntlm"
        lines = [
            f"{user}:1000:{'A' * 32}:{ntowfv1(account.password).hex().upper()}:[U]:LCT-00000000"
            for user, account in self._accounts.items()
            if not account.expired
        ]
        self.file.write_text("\n".join(lines), encoding="utf-8")
        self.file.chmod(0o600)

    def basic(self, user: str, password: str) -> bool:
        account = self._accounts.get(user)
        return account is not None and not account.expired and account.password == password

    def close(self) -> None:
        self._folder.cleanup()


@dataclass(frozen=True, slots=True)
class Step:
    """What to answer to a step of a login."""

    status: int
    headers: Mapping[str, str | list[str]]


class Login:
    """The login of one connection, which NTLM binds it to.

    Args:
        accounts: Who may.
        certificate: The server's, as DER; None without TLS.
        basic: Whether Basic is offered.
    """

    def __init__(self, accounts: Accounts, *, certificate: bytes | None, basic: bool) -> None:
        self._accounts = accounts
        self._bindings = None
        if certificate is not None:
            digest = hashlib.sha256(certificate).digest()
            self._bindings = spnego.channel_bindings.GssChannelBindings(
                application_data=b"tls-server-end-point:" + digest
            )
        self._basic = basic
        self._context: Any = None
        self.user = ""
        self.auth: Auth = "ntlm"

    @property
    def offers(self) -> Step:
        schemes = ["Negotiate", "NTLM"]
        if self._basic:
            schemes.append('Basic realm="WSMAN"')
        return Step(401, {"WWW-Authenticate": schemes})

    def step(self, authorization: str) -> Step | None:
        """A request's ``Authorization``; None once somebody is logged in by it."""
        scheme, _, token = authorization.partition(" ")
        try:
            data = base64.b64decode(token, validate=True)
        except (binascii.Error, ValueError):
            return self.offers
        if scheme.lower() == "basic" and self._basic:
            user, _, password = data.decode("utf-8", "replace").partition(":")
            if not self._accounts.basic(user, password):
                return self.offers
            self.user, self.auth = user, "basic"
            return None
        if scheme.lower() not in ("negotiate", "ntlm"):
            return self.offers
        return self._ntlm(scheme, data)

    def _ntlm(self, scheme: str, token: bytes) -> Step | None:
        with _ENVIRONMENT:
            before = os.environ.get("NTLM_USER_FILE")
            os.environ["NTLM_USER_FILE"] = str(self._accounts.file)
            try:
                if self._context is None or self._context.complete:
                    self.user = ""
                    self._context = spnego.server(
                        # without the SPNEGO wrapping, clients send bare NTLM under either name
                        protocol="ntlm" if token.startswith(b"NTLMSSP\0") else "negotiate",
                        options=spnego.NegotiateOptions.use_ntlm,
                        channel_bindings=self._bindings,
                    )
                answer = self._context.step(token)
            except (spnego.exceptions.SpnegoError, ValueError, struct.error):
                self._context = None
                return self.offers
            finally:
                if before is None:
                    del os.environ["NTLM_USER_FILE"]
                else:
                    os.environ["NTLM_USER_FILE"] = before
        if not self._context.complete:
            return Step(401, {"WWW-Authenticate": f"{scheme} {base64.b64encode(answer or b'').decode()}"})
        self.user, self.auth = str(self._context.client_principal), "ntlm"
        return None

    # message encryption, [MS-WSMV] 2.2.9.1

    def decrypt(self, body: bytes) -> bytes:
        """The message in an encrypted request; raises `ValueError` if it is not one of this login."""
        start = re.search(rb"\tContent-Type: application/octet-stream\r\n", body)
        if start is None or self._context is None or not self._context.complete:
            raise ValueError("not an encrypted message of this connection's login")
        blob = body[start.end() : body.rfind(BOUNDARY)]
        length = struct.unpack("<i", blob[:4])[0]
        try:
            message: bytes = self._context.unwrap_winrm(blob[4 : 4 + length], blob[4 + length :])
        except spnego.exceptions.SpnegoError as error:
            raise ValueError(str(error)) from None
        return message

    def encrypt(self, message: bytes) -> tuple[str, bytes]:
        """Content type and body of an encrypted answer."""
        wrapped = self._context.wrap_winrm(message)
        length = len(message) + wrapped.padding_length
        body = (
            BOUNDARY
            + f"\r\n\tContent-Type: {PROTOCOL}\r\n\tOriginalContent: type={SOAP_TYPE};Length={length}\r\n".encode()
            + BOUNDARY
            + b"\r\n\tContent-Type: application/octet-stream\r\n"
            + struct.pack("<i", len(wrapped.header))
            + wrapped.header
            + wrapped.data
            + BOUNDARY
            + b"--\r\n"
        )
        return f'multipart/encrypted;protocol="{PROTOCOL}";boundary="Encrypted Boundary"', body
