"""What happened, as it is appended to the history."""

from dataclasses import dataclass
from enum import IntEnum

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


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a change, the `ordinal`th of its revision, from 0.

    `before` and `after` are the states of `instance`, so that a filter can judge both.
    """

    revision: int
    type: EventType
    instance: InstanceId
    before: Instance | None
    after: Instance | None
    related: InstanceId | None = None
    service: Service | None = None
    actor: str = ""
    cause: Cause | None = None
    root: InstanceId | None = None
    note: str = ""
    ordinal: int = 0
