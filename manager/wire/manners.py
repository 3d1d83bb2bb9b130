"""What a server of our own expects of its clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Manners:
    """Bytes of a message at most; seconds of silence, before they are asked for a sign and after."""

    message: int
    quiet: float
    patience: float

    @classmethod
    def of(cls, options: Sequence[tuple[str, Any]]) -> "Manners":
        """As gRPC's options say it."""
        given = dict(options)
        return cls(
            message=given["grpc.max_receive_message_length"],
            quiet=given["grpc.keepalive_time_ms"] / 1000,
            patience=given["grpc.keepalive_timeout_ms"] / 1000,
        )
