"""What a server of our own expects of its clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DEADLINE, LONGEST = "im.deadline_ms", "im.deadline_most_ms"  # gRPC's own server passes over what it does not know


@dataclass(frozen=True, slots=True)
class Manners:
    """What there may be at most: bytes of a message, and of a call's metadata, calls at once, connections.

    In seconds: how long a connection may take to be made; how long is to be between pings to which nothing was said;
    the silence before they are asked for a sign, and after; after how long a connection that has no calls, or any, is
    to be made anew, and how much its calls have then; how much a single call has that names no deadline, and the most
    that it may name.
    """

    message: int
    metadata: int
    streams: int
    connections: int
    handshake: float
    pings: float
    quiet: float
    patience: float
    idle: float
    age: float
    farewell: float
    deadline: float
    longest: float

    @classmethod
    def of(cls, options: Sequence[tuple[str, Any]]) -> "Manners":
        """As gRPC's options say it, and two of our own."""
        given = dict(options)
        return cls(
            message=given["grpc.max_receive_message_length"],
            metadata=given["grpc.absolute_max_metadata_size"],
            streams=given["grpc.max_concurrent_streams"],
            connections=given["grpc.max_allowed_incoming_connections"],
            handshake=given["grpc.server_handshake_timeout_ms"] / 1000,
            pings=given["grpc.http2.min_ping_interval_without_data_ms"] / 1000,
            quiet=given["grpc.keepalive_time_ms"] / 1000,
            patience=given["grpc.keepalive_timeout_ms"] / 1000,
            idle=given["grpc.max_connection_idle_ms"] / 1000,
            age=given["grpc.max_connection_age_ms"] / 1000,
            farewell=given["grpc.max_connection_age_grace_ms"] / 1000,
            deadline=given[DEADLINE] / 1000,
            longest=given[LONGEST] / 1000,
        )

    @property
    def glance(self) -> float:
        """After how many seconds it is looked at again which calls have had their time."""
        return min(1.0, self.deadline / 4)
