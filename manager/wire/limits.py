"""How much a server takes from each of its clients, whatever carries the calls."""

from dataclasses import dataclass

from manager.settings import Settings
from manager.wire.deadlines import USUAL, Deadlines


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings' limits; without them, their defaults.

    `message`: bytes of a message that comes in; `metadata`: of a call's metadata, or of a request's headers; `streams`:
    calls at once on a connection, of whose client the others wait; `connections`: of all of them.

    In seconds: `handshake` for a connection to be made; `pings` between those of a client to which nothing is said;
    `keepalive`, after which silence it is asked for a sign, and `keepalive_timeout` for that; `idle` without a call and
    `age` in all, after which it is to come anew, and `age_grace` for its calls then.
    """

    message: int = 1024 * 1024
    metadata: int = 8 * 1024
    streams: int = 128
    connections: int = 10_000
    handshake: float = 10.0
    pings: float = 20.0
    keepalive: float = 30.0
    keepalive_timeout: float = 10.0
    idle: float = 300.0
    age: float = 1800.0
    age_grace: float = 60.0
    deadlines: Deadlines = USUAL

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """As the settings have them."""
        return cls(
            message=settings.message_size,
            metadata=settings.metadata_size,
            streams=settings.connection_streams,
            connections=settings.connections,
            handshake=settings.handshake.total_seconds(),
            pings=settings.ping_interval.total_seconds(),
            keepalive=settings.keepalive.total_seconds(),
            keepalive_timeout=settings.keepalive_timeout.total_seconds(),
            idle=settings.idle.total_seconds(),
            age=settings.connection_age.total_seconds(),
            age_grace=settings.connection_age_grace.total_seconds(),
            deadlines=Deadlines.of(settings),
        )
