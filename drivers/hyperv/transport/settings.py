"""How to reach and log in to the hosts: the part of a target's options that the transports read."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from conformance.errors import LabFileError, MissingRequirement

Auth = Literal["ntlm", "basic", "kerberos", "certificate", "credssp"]


class WinrmSettings(BaseModel):
    """The options about WinRM; a driver's options inherit them, so that all stand side by side in the lab file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoints: dict[str, str] = Field(description="WinRM URL by host name, such as https://hv1.example:5986/wsman")
    transport: Literal["winrs", "psrp"] = Field(default="winrs", description="shells by pywinrm, or pools by pypsrp")
    auth: Auth = "ntlm"
    user: str = Field(default="", description="such as DOMAIN\\name, or name@REALM for Kerberos")
    password_env: str = Field(default="", description="environment variable with the password")
    password_file: str = Field(default="", description="file with the password in its first line")
    password_keyring: str = Field(default="", description="service in this machine's keyring; the login is `user`")
    ca_file: str = Field(default="", description="PEM file of the authority that signed the hosts' certificates")
    verify: bool = Field(default=True, description="check the hosts' certificates; off only in a closed lab")
    client_cert: str = Field(default="", description="PEM file, for auth = certificate")
    client_key: str = Field(default="", description="PEM file, not encrypted, for auth = certificate")
    kerberos_delegation: bool = Field(default=False, description="forward the ticket, for a second hop")
    connect_seconds: float = Field(default=15.0, ge=1, le=120, description="for a TCP connection")
    shells: int = Field(default=8, ge=1, le=100, description="at most so many at once on a host")
    idle_minutes: int = Field(default=30, ge=1, description="the host ends a shell that was not used for so long")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for host, url in self.endpoints.items():
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"endpoint of {host}: not an http or https URL")
            if parts.username or parts.password:
                raise ValueError(f"endpoint of {host}: a login does not belong into the URL; use user and password_env")
            if parts.scheme == "http" and self.auth in ("basic", "certificate"):
                raise ValueError(
                    f"endpoint of {host}: auth = {self.auth} only over https, for http does not protect it"
                )
        given = [name for name in ("password_env", "password_file", "password_keyring") if getattr(self, name)]
        if self.auth == "certificate":
            if not (self.client_cert and self.client_key):
                raise ValueError("auth = certificate needs client_cert and client_key")
        elif self.auth != "kerberos":
            if not self.user:
                raise ValueError(f"auth = {self.auth} needs user")
            if len(given) != 1:
                raise ValueError("exactly one of password_env, password_file and password_keyring has to be given")
        if len(given) > 1:
            raise ValueError(f"only one of {', '.join(given)} can be given")
        return self


class Secret:
    """A password that no text shows."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def scrub(self, text: str) -> str:
        """`text` without the secret, should the other side have repeated it."""
        return text.replace(self._value, "***") if len(self._value) >= 4 else text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


def password(settings: WinrmSettings) -> Secret:
    """The password from where the options say.

    Raises:
        LabFileError: It is not there.
        MissingRequirement: The keyring library is not installed, or has no keyring on this machine.
    """
    if settings.password_env:
        value = os.environ.get(settings.password_env)
        if not value:
            raise LabFileError(
                f"the environment variable {settings.password_env} is not set",
                hint=f"export {settings.password_env}=..., or use password_file",
            )
        return Secret(value)
    if settings.password_file:
        try:
            lines = Path(settings.password_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise LabFileError(f"password_file {settings.password_file}: {error}") from None
        if not lines or not lines[0]:
            raise LabFileError(f"password_file {settings.password_file} is empty")
        return Secret(lines[0])
    if settings.password_keyring:
        return Secret(_from_keyring(settings.password_keyring, settings.user))
    return Secret("")


def _from_keyring(service: str, user: str) -> str:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise MissingRequirement("password_keyring needs keyring", hint="pip install 'hvconform[hyperv]'") from None
    try:
        value = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        raise MissingRequirement(f"no usable keyring: {error}", hint="use password_env or password_file") from None
    if not value:
        raise LabFileError(f"the keyring has no password of {service} for {user}", hint=f"keyring set {service} {user}")
    return value


def check_files(settings: WinrmSettings) -> None:
    """See that the certificates named can be read, before a host is contacted; raises `LabFileError`."""
    if settings.ca_file:
        try:
            ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise LabFileError(f"ca_file {settings.ca_file}: {error}") from None
    if settings.auth == "certificate":
        try:
            context = ssl.create_default_context()
            context.load_cert_chain(settings.client_cert, settings.client_key, password=lambda: b"")
        except (OSError, ssl.SSLError) as error:
            raise LabFileError(f"client_cert and client_key: {error}", hint="the key must not be encrypted") from None
