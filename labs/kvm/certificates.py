"""Certificates for a nested lab: one CA of its own, one key pair that every host uses as server and as client.

They protect nothing (the network is inside namespaces, the keys last as long as the lab); they are there so that the
encrypted transports are tested for real.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = datetime.timedelta(days=30)


def write(folder: Path, hosts: Mapping[str, Sequence[str]]) -> None:
    """Write a CA and a certificate for all hosts, under each of the names that libvirt and QEMU look for.

    Args:
        folder: Gets cacert.pem, {client,server}{cert,key}.pem and {client,server}-{cert,key}.pem, ca-cert.pem.
        hosts: Host name to its addresses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("hvconform nested lab")
    ca = (
        _builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    names += [x509.IPAddress(ip_address(address)) for addresses in hosts.values() for address in addresses]
    certificate = (
        _builder(_name(next(iter(hosts))), ca_name, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for role in ("client", "server"):
        for dash in ("", "-"):  # libvirt's names have none, QEMU's have one
            (folder / f"{role}{dash}cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
            private = folder / f"{role}{dash}key.pem"
            private.touch(mode=0o600)
            private.write_bytes(secret)
    for name in ("cacert.pem", "ca-cert.pem"):
        (folder / name).write_bytes(ca.public_bytes(serialization.Encoding.PEM))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _LIFE)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not sign,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
