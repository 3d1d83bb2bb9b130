"""Who the client is to a manager, and how it knows that it talks to one."""

from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True, slots=True)
class Access:
    """What a connection shows and asks for.

    `token`: sent with every call as `authorization: Bearer`. `secure`: the connection is TLS, which it also is with any
    of the others: `ca`, the certificates (PEM) that a manager's must be signed by, the system's where there are none;
    `certificate` and `key` (PEM), the client's own.
    """

    token: str = field(default="", repr=False)
    secure: bool = False
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel of gRPC; None: in the clear."""
        if not (self.secure or self.ca or self.certificate):
            return None
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What comes with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


OPEN = Access()
