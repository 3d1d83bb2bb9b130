"""The fleet as it is, read once for all who begin to subscribe at the same time."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from manager.domain.filter import Filter, ResumeToken
from manager.domain.instance import Instance, InstanceId
from manager.repository import history, listing
from manager.repository.database import Readers


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everybody alive at a place in the history, stale as it tells of them; `encoded` keeps their messages."""

    place: ResumeToken
    instances: Sequence[Instance]
    encoded: dict[InstanceId, bytes] = field(default_factory=dict)


class Snapshots:
    """One at a time, for all who wait. Nobody is given one that was begun before they asked."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._latest: Snapshot | None = None
        self._begun = 0
        self._waiting = 0
        self._taking = asyncio.Lock()

    async def get(self) -> Snapshot:
        """A snapshot of now, shared with those who asked while the one before it was taken."""
        asked = self._begun
        self._waiting += 1
        try:
            async with self._taking:
                if self._latest is None or self._begun == asked:
                    self._begun += 1
                    self._latest = await self._take()
                return self._latest
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._latest = None  # a large fleet is not kept for nobody

    async def _take(self) -> Snapshot:
        async with self._readers.snapshot() as connection:
            place = await history.head(connection)
            everybody = listing.living(connection, Filter(), after=None, revision=place.revision, as_told=True)
            return Snapshot(place, [each async for each in everybody])
