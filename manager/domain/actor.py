"""Who asks for a change."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks, with which token, and from where. Nobody's name is empty while calls need no credentials."""

    who: str = ""
    token: UUID | None = None
    address: str = ""

    @staticmethod
    def manager(instance_id: UUID) -> "Actor":
        """A manager, in what it does by itself."""
        return Actor(f"manager {instance_id}")

    def __str__(self) -> str:
        """As the history tells it: the name, or where somebody without one called from."""
        return self.who or self.address


NOBODY = Actor()
