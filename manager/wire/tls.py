"""TLS: the certificate that a manager shows, and whose it asks of its clients."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from manager.settings import Settings


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


def tls_of(settings: Settings) -> Tls | None:
    """As the settings have it; None: in the clear."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
