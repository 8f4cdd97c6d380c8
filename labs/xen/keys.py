"""The lab's SSH keys: one that opens its hosts, one by which they are known. They last as long as the saved state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Pair:
    """A key pair in OpenSSH's formats."""

    private: bytes
    public: bytes


def make() -> Pair:
    """A new pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return Pair(private, public + b"\n")


def write(pair: Pair, file: Path) -> None:
    """Write the private half to `file`, which nobody else may read, and the public half beside it."""
    file.touch(mode=0o600)
    file.write_bytes(pair.private)
    file.with_suffix(".pub").write_bytes(pair.public)


def over(host: Pair, client: Pair) -> dict[str, bytes]:
    """What goes into a host: its own key, and who may come in. The hosts may enter each other, as `xl migrate` does."""
    return {
        "etc/ssh/ssh_host_ed25519_key": host.private,
        "etc/ssh/ssh_host_ed25519_key.pub": host.public,
        "root/.ssh/authorized_keys": client.public + host.public,
    }
