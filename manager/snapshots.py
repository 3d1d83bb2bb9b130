"""The fleet as it is, read once for all who begin to subscribe within a few seconds."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from manager.domain.filter import Filter, ResumeToken
from manager.domain.instance import Instance, InstanceId
from manager.repository import history, listing
from manager.repository.database import Readers

SHARED_FOR = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everybody alive at a place in the history, the stale with their status; `encoded` keeps their messages."""

    place: ResumeToken
    instances: Sequence[Instance]
    encoded: dict[InstanceId, bytes] = field(default_factory=dict)


class Snapshots:
    """The latest snapshot. What changed since it was taken follows it as events, so an older one is as good."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._latest: Snapshot | None = None
        self._taking = asyncio.Lock()

    async def get(self) -> Snapshot:
        """A snapshot that is at most some seconds old."""
        async with self._taking:
            if self._latest is None:
                self._latest = await self._take()
            return self._latest

    async def _take(self) -> Snapshot:
        async with self._readers.snapshot() as connection:
            place = await history.head(connection)
            everybody = listing.living(connection, Filter(), after=None, revision=place.revision, stale=True)
            snapshot = Snapshot(place, [each async for each in everybody])
        asyncio.get_running_loop().call_later(SHARED_FOR, self._forget, snapshot)
        return snapshot

    def _forget(self, snapshot: Snapshot) -> None:
        """A large fleet is not kept for nobody."""
        if self._latest is snapshot:
            self._latest = None
