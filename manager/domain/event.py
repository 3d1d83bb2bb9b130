"""What happened, as it is appended to the history."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from uuid import UUID

from manager.domain.actor import NOBODY, Actor
from manager.domain.filter import ResumeToken
from manager.domain.instance import Cause, Instance, InstanceId, Service


class EventType(IntEnum):
    """What kind of change."""

    ADDED = 1
    REMOVED = 2
    CHILD_ADDED = 3
    PARENT_ADDED = 4
    SERVICE_ADDED = 5
    STALE = 6
    RECOVERED = 7
    UPDATED = 8


# What the seed knows; the others are sent only to those who ask.
SEED = frozenset(
    {EventType.ADDED, EventType.REMOVED, EventType.CHILD_ADDED, EventType.PARENT_ADDED, EventType.SERVICE_ADDED}
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a change.

    `before` and `after` are the states of `instance`, so that a filter can judge both.
    """

    revision: int
    type: EventType
    instance: InstanceId
    before: Instance | None
    after: Instance | None
    related: InstanceId | None = None
    service: Service | None = None
    actor: Actor = NOBODY
    cause: Cause | None = None
    root: InstanceId | None = None
    note: str = ""


@dataclass(slots=True)
class Told:
    """An event as the history holds it; `last` of its revision. `encoded` keeps its messages, made once for all."""

    epoch: UUID
    revision: int
    ordinal: int
    nonce: int
    at: datetime
    type: EventType
    instance: InstanceId
    before: Instance | None
    after: Instance | None
    related: InstanceId | None
    service: Service | None
    cause: Cause | None
    root: InstanceId | None
    size: int
    last: bool = False
    encoded: dict[object, bytes] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        """Its place in the order of the history."""
        return (self.revision, self.ordinal)

    def place(self, part: int = 0) -> ResumeToken:
        """Where a subscriber goes on who was sent `part` messages for this event, or all of them (0)."""
        return ResumeToken(self.epoch, self.revision, self.ordinal, self.nonce, part)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with what the stream does not tell: who made the change, and the note left with a kill."""

    told: Told
    actor: str
    note: str
