"""A small authority of one's own: certificates for managers, and for clients by their SPIFFE names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LASTS = timedelta(days=3650)
EARLIER = timedelta(minutes=5)  # for clocks that are behind
PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, folder: Path, name: str) -> list[Path]:
        """`NAME.pem`, and `NAME.key` for its owner alone. Raises FileExistsError: a key is never written over."""
        key = self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return [
            _written(folder / f"{name}.key", key, 0o600),
            _written(folder / f"{name}.pem", self.certificate.public_bytes(PEM), 0o644),
        ]


def _written(path: Path, content: bytes, mode: int) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    return path


def read(folder: Path, name: str) -> Pair:
    """What `Pair.write` wrote."""
    key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{folder / name}.key is not a key that was made here")  # noqa: TRY004 - its content is wrong
    return Pair(x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes()), key)


def authority(name: str) -> Pair:
    """A new one, which signs for itself and for others."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _begun(name, name, key, AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Pair(made.sign(key, hashes.SHA256()), key)


def for_server(by: Pair, hosts: Sequence[str], lasts: timedelta) -> Pair:
    """For a manager that is asked by these names and addresses. Raises ValueError for what is neither."""
    return _issued(by, hosts[0], [_host(each) for each in hosts], ExtendedKeyUsageOID.SERVER_AUTH, lasts)


def for_client(by: Pair, uri: str, lasts: timedelta) -> Pair:
    """For a client of that SPIFFE name."""
    names = [x509.UniformResourceIdentifier(uri)]
    return _issued(by, uri.rpartition("/")[2], names, ExtendedKeyUsageOID.CLIENT_AUTH, lasts)


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text.strip("[]")))
    except ValueError:
        return x509.DNSName(text)


def _issued(
    by: Pair, name: str, names: Sequence[x509.GeneralName], use: x509.ObjectIdentifier, lasts: timedelta
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _begun(name, _name_of(by), key, lasts)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()), critical=False)
    )
    return Pair(made.sign(by.key, hashes.SHA256()), key)


def _name_of(by: Pair) -> str:
    return str(by.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _begun(name: str, by: str, key: ec.EllipticCurvePrivateKey, lasts: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_common(name))
        .issuer_name(_common(by))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + lasts)
    )


def _common(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
