"""Logging in to the endpoint: Basic, and NTLM with channel binding and message encryption, by pyspnego's acceptor."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import os
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
from spnego._credssp import _create_tls_context
from spnego._ntlm_raw.crypto import ntowfv1

from labs.hyperv_double.engine import Auth

_ENVIRONMENT = threading.Lock()
_USER_FILE = "NTLM_USER_FILE"
"""pyspnego's acceptor looks accounts up in a file that this environment variable names."""

# there from now on, empty for none: a client in the same process that goes through the environment, as requests does
# for proxies, breaks on a name that comes or goes meanwhile
os.environ.setdefault(_USER_FILE, "")

BOUNDARY = b"--Encrypted Boundary"
PROTOCOL = "application/HTTP-SPNEGO-session-encrypted"
CREDSSP_PROTOCOL = "application/HTTP-CredSSP-session-encrypted"
OCTETS = b"\tContent-Type: application/octet-stream\r\n"
RECORD = 16384
"""The most that a TLS record holds."""

MUTUAL = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"
"""What a client says that has shown its certificate."""

SOAP_TYPE = "application/soap+xml;charset=UTF-8"


@functools.cache
def _tls() -> dict[str, Any]:
    """The TLS of the CredSSP exchange, with one key for all: making one takes a tenth of a second."""
    return {"credssp_tls_context": _create_tls_context("accept")}


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

    def known(self, user: str) -> bool:
        return user in self._accounts

    def delegated(self, domain: str, user: str, password: str) -> bool:
        """Whether credentials that were handed over are those of an account."""
        return self.basic(f"{domain}\\{user}" if domain else user, password)

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
        credssp: Whether CredSSP is.
        client: The common name in the client's certificate, which is its user name here; empty without one.
    """

    def __init__(
        self, accounts: Accounts, *, certificate: bytes | None, basic: bool, credssp: bool, client: str = ""
    ) -> None:
        self._accounts = accounts
        self._bindings = None
        if certificate is not None:
            digest = hashlib.sha256(certificate).digest()
            self._bindings = spnego.channel_bindings.GssChannelBindings(
                application_data=b"tls-server-end-point:" + digest
            )
        self._basic = basic
        self._credssp = credssp
        self._client = client
        self._context: Any = None
        self.user = ""
        self.auth: Auth = "ntlm"

    @property
    def offers(self) -> Step:
        schemes = ["Negotiate", "NTLM"]
        if self._credssp:
            schemes.append("CredSSP")
        if self._basic:
            schemes.append('Basic realm="WSMAN"')
        return Step(401, {"WWW-Authenticate": schemes})

    def step(self, authorization: str) -> Step | None:
        """A request's ``Authorization``; None once somebody is logged in by it."""
        if authorization == MUTUAL:
            if not self._accounts.known(self._client):
                return self.offers
            self.user, self.auth = self._client, "certificate"
            return None
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
        if scheme.lower() in ("negotiate", "ntlm") or (scheme.lower() == "credssp" and self._credssp):
            return self._exchange(scheme, data)
        return self.offers

    def _exchange(self, scheme: str, token: bytes) -> Step | None:
        """One step of NTLM, or of CredSSP, which brings the password itself after an NTLM exchange inside TLS."""
        with _ENVIRONMENT:
            before = os.environ[_USER_FILE]
            os.environ[_USER_FILE] = str(self._accounts.file)
            try:
                if self._context is None or self._context.complete:
                    self.user = ""
                    self._context = self._acceptor(scheme, token)
                answer = self._context.step(token)
            except (spnego.exceptions.SpnegoError, ValueError, struct.error):
                self._context = None
                return self.offers
            finally:
                os.environ[_USER_FILE] = before
        if not self._context.complete:
            return Step(401, {"WWW-Authenticate": f"{scheme} {base64.b64encode(answer or b'').decode()}"})
        if scheme.lower() == "credssp":
            # what was handed over is what a second hop would use
            delegated = self._context.get_extra_info("client_credential")
            if delegated is None or not self._accounts.delegated(
                delegated.domain_name, delegated.username, delegated.password
            ):
                self._context = None
                return self.offers
        self.user = str(self._context.client_principal)
        self.auth = "credssp" if scheme.lower() == "credssp" else "ntlm"
        return None

    def _acceptor(self, scheme: str, token: bytes) -> Any:
        if scheme.lower() == "credssp":
            return spnego.server(protocol="credssp", options=spnego.NegotiateOptions.use_negotiate, **_tls())
        return spnego.server(
            # without the SPNEGO wrapping, clients send bare NTLM under either name
            protocol="ntlm" if token.startswith(b"NTLMSSP\0") else "negotiate",
            options=spnego.NegotiateOptions.use_ntlm,
            channel_bindings=self._bindings,
        )

    # message encryption, [MS-WSMV] 2.2.9.1

    def decrypt(self, body: bytes) -> bytes:
        """The message in an encrypted request; raises `ValueError` if it is not one of this login."""
        if self._context is None or not self._context.complete:
            raise ValueError("nobody has logged in on this connection")
        blobs = [part.partition(OCTETS)[2] for part in body.split(BOUNDARY) if OCTETS in part]
        try:
            message = b"".join(self._unwrapped(blob) for blob in blobs)
        except (spnego.exceptions.SpnegoError, struct.error) as error:
            raise ValueError(str(error)) from None
        if not message:
            raise ValueError("there is no message in it")
        return message

    def _unwrapped(self, blob: bytes) -> bytes:
        length = struct.unpack("<i", blob[:4])[0]
        if self.auth == "credssp":  # the length is that of a trailer, which TLS finds by itself
            length = 0
        message: bytes = self._context.unwrap_winrm(blob[4 : 4 + length], blob[4 + length :])
        return message

    def encrypt(self, message: bytes) -> tuple[str, bytes]:
        """Content type and body of an encrypted answer."""
        protocol, size, kind = PROTOCOL, len(message), "multipart/encrypted"
        if self.auth == "credssp":  # a TLS record at a time
            protocol, size, kind = CREDSSP_PROTOCOL, RECORD, "multipart/x-multi-encrypted"
        body = b"".join(
            self._wrapped(message[at : at + size], protocol) for at in range(0, max(1, len(message)), size or 1)
        )
        return f'{kind};protocol="{protocol}";boundary="Encrypted Boundary"', body + BOUNDARY + b"--\r\n"

    def _wrapped(self, message: bytes, protocol: str) -> bytes:
        wrapped = self._context.wrap_winrm(message)
        length = len(message) + wrapped.padding_length
        part: bytes = (
            BOUNDARY
            + f"\r\n\tContent-Type: {protocol}\r\n\tOriginalContent: type={SOAP_TYPE};Length={length}\r\n".encode()
            + BOUNDARY
            + b"\r\n"
            + OCTETS
            + struct.pack("<i", len(wrapped.header))
            + wrapped.header
            + wrapped.data
        )
        return part
