"""How long a single call may take: what it gets that names no deadline, and the most that it may name."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from manager.domain.refusals import TooLate
from manager.settings import Settings

T = TypeVar("T")


class Timed(Protocol):
    """As much of a call as says how long its client still waits."""

    def time_remaining(self) -> float | None:
        """Seconds, 0 at the least; None where the client named no deadline."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds. Streams have none."""

    default: float = 10.0
    most: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> "Deadlines":
        """As the settings have them."""
        return cls(
            min(settings.deadline, settings.deadline_most).total_seconds(), settings.deadline_most.total_seconds()
        )

    def missing(self, named: float | None) -> float | None:
        """What has to be seen to beside the client's own; None where that one will do: a timer costs more than this."""
        if named is None:
            return self.default
        return self.most if named > self.most else None


USUAL = Deadlines()


async def within(limit: float, answering: Coroutine[Any, Any, T]) -> T:
    """The answer; raises TooLate once so many seconds are over, and then nobody waits for the answer any more."""
    try:
        async with asyncio.timeout(limit) as left:
            return await answering
    except TimeoutError:
        if not left.expired():
            raise
        raise TooLate(f"no answer within {limit:g} s, and nobody knows what became of the call") from None


def is_over(call: Timed) -> bool:
    """Whether the client's own deadline is."""
    return call.time_remaining() == 0
