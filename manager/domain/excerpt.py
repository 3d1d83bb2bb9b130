"""Which part of the history a reader asks for, and where a page of it goes on."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from manager.domain.event import EventType
from manager.domain.instance import InstanceId, InstanceType

PAGE_LIMIT = 1_000
PAGE_USUAL = 100
NEWEST = 2**62  # a revision that no history reaches


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Every criterion is optional, and all that are given must hold; within one, any value does.

    `first` and `last` are revisions, both included; `since` and `until` are times, the second one excluded.
    """

    ids: tuple[InstanceId, ...] = ()
    types: tuple[InstanceType, ...] = ()
    kinds: tuple[EventType, ...] = ()
    hostnames: tuple[str, ...] = ()
    subtree_of: InstanceId | None = None
    first: int = 0
    last: int = NEWEST
    since: datetime | None = None
    until: datetime | None = None
    oldest_first: bool = False

    @property
    def digest(self) -> bytes:
        """What a page token remembers of its excerpt, so that it is not used with another."""
        return hashlib.sha256(repr(self).encode()).digest()[:8]


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where the next page goes on: beyond the event `ordinal` of `revision`, in that history of the database.

    There may be no such event: then it is beyond where it would be.
    """

    epoch: UUID
    revision: int
    ordinal: int
