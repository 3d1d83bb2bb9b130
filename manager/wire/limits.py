"""How much a server takes from each of its clients, whatever carries the calls."""

from dataclasses import dataclass

from manager.settings import Settings
from manager.wire.deadlines import USUAL, Deadlines


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings' limits; without them, their defaults.

    `message`: bytes of a message that comes in; `streams`: calls at once on a connection, of whose client the others
    wait; `pings`: seconds between the pings of a client to which nothing is said; `connections`: of all of them.
    """

    message: int = 1024 * 1024
    streams: int = 128
    pings: float = 20.0
    connections: int = 10_000
    deadlines: Deadlines = USUAL

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """As the settings have them."""
        return cls(
            settings.message_size,
            settings.connection_streams,
            settings.ping_interval.total_seconds(),
            settings.connections,
            Deadlines.of(settings),
        )
