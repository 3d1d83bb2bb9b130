"""How much a server takes from each of its clients, whatever carries the calls."""

from dataclasses import dataclass

from manager.settings import Settings
from manager.wire.deadlines import USUAL, Deadlines


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings' limits; without them, their defaults."""

    deadlines: Deadlines = USUAL

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """As the settings have them."""
        return cls(deadlines=Deadlines.of(settings))
