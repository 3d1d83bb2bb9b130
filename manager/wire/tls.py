"""TLS: the certificate that a manager shows, and whose it asks of its clients."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from manager.settings import Settings

ALPN = "h2"
NAMES = "x509_subject_alternative_name"  # as gRPC calls them


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM, read when a port is opened. With `client_ca` gRPC admits only clients with certificates of those
    authorities."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """For a port of gRPC."""
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        ca = self.client_ca.read_bytes() if self.client_ca else None
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)

    def context(self) -> ssl.SSLContext:
        """The same for a port of our own. Raises OSError where the files are none of TLS's."""
        sealing = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.client_ca)
        sealing.minimum_version = ssl.TLSVersion.TLSv1_2
        # nothing is resumed: connections are few and long, and each shows its certificate anew
        sealing.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        sealing.num_tickets = 0
        sealing.set_alpn_protocols([ALPN])
        sealing.load_cert_chain(self.certificate, self.key, password=lambda: "")  # or a terminal would be asked
        if self.client_ca:
            sealing.verify_mode = ssl.CERT_REQUIRED
        return sealing

    def fault(self) -> str:
        """What is wrong with the files, in OpenSSL's words; nothing where they can be served with."""
        try:
            self.context()
        except OSError as error:
            return str(getattr(error, "reason", None) or error)
        return ""


def certificate_of(transport: asyncio.BaseTransport) -> Mapping[str, Sequence[bytes]]:
    """The names in the certificate that a client was asked for, as gRPC tells them; nothing without TLS."""
    shown = transport.get_extra_info("peercert") or {}
    return {NAMES: [value.encode() for _, value in shown.get("subjectAltName", ())]}


def speaks_http2(transport: asyncio.BaseTransport) -> bool:
    """Whether both have agreed on it, where there is TLS to agree by."""
    sealed = transport.get_extra_info("ssl_object")
    return sealed is None or sealed.selected_alpn_protocol() == ALPN


def tls_of(settings: Settings) -> Tls | None:
    """As the settings have it; None: in the clear."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
