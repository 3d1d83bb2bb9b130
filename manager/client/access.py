"""Who the client is to a manager, and how it knows that it talks to one."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

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

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What IM_TOKEN or IM_TOKEN_FILE, IM_TLS_CA, IM_TLS_CERT and IM_TLS_KEY say, as `imctl` reads them.

        The variables but for IM_TOKEN name files. Raises OSError for one that cannot be read.
        """

        def content(name: str) -> bytes | None:
            return Path(environment[name]).read_bytes() if environment.get(name) else None

        token = environment.get("IM_TOKEN") or (content("IM_TOKEN_FILE") or b"").decode()
        return cls(
            token=token.strip(), ca=content("IM_TLS_CA"), certificate=content("IM_TLS_CERT"), key=content("IM_TLS_KEY")
        )

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel of gRPC; None: in the clear."""
        if not (self.secure or self.ca or self.certificate):
            return None
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What comes with every call."""
        return bearing(self.token)


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that shows a token; none for no token."""
    return (("authorization", f"Bearer {token}"),) if token else ()


OPEN = Access()
