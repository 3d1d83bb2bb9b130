"""Metrics on their way in: a bounded buffer, stored within a second, that never makes a post wait."""

import asyncio
import logging
from collections import deque
from datetime import timedelta

from manager.domain.metrics import Post
from manager.repository.database import Session, is_bad_data, refusal_of, why
from manager.repository.metrics import store

log = logging.getLogger(__name__)

# samples in one transaction: the more, the fewer times the latest values of the same instances are written; but their
# instances are sorted in one go, while nobody else is served
BATCH = 40_000


class Samples:
    """The buffer and its one flusher. `dropped` counts what a full buffer lost, `orphaned` what the dead sent."""

    def __init__(self, session: Session, *, buffer: int, interval: timedelta) -> None:
        self._session = session
        self._interval = interval.total_seconds()
        self._waiting: deque[Post] = deque()
        self._limit = buffer
        self._closed = asyncio.Event()
        self.waiting = 0  # how many wait to be stored
        self.dropped = 0
        self.orphaned = 0

    def post(self, post: Post) -> None:
        """Takes samples, and with them the list that they are in; where the buffer is full, the oldest make room."""
        if post.samples:
            self._waiting.append(post)
            self.waiting += len(post.samples)
            self._make_room()

    async def serve(self) -> None:
        """Stores what has come, an interval after it began to do so the last time; once closed, a last time."""
        now = asyncio.get_running_loop().time
        due = now() + self._interval
        while not self._closed.is_set():
            try:
                async with asyncio.timeout_at(due):
                    await self._closed.wait()
            except TimeoutError:
                due = now() + self._interval
                await self._flush()
        await self._flush()

    def close(self) -> None:
        """Ends `serve` after a last flush."""
        self._closed.set()

    async def _flush(self) -> None:
        """Stores what waits now. What comes meanwhile waits for the next time, so that there is more of it."""
        rest = self.waiting
        while rest > 0 and (batch := self._take()):
            count = _size(batch)
            rest -= count
            try:
                async with self._session.use() as connection:
                    self.orphaned += count - await store(connection, batch)
            except Exception as error:
                if refusal_of(error) is None or is_bad_data(error):
                    self.dropped += count
                    log.exception("%d samples could not be stored, and were dropped", count)
                    continue
                log.warning("%d samples wait for the database: %s", count, why(error))
                self._put_back(batch)
                return

    def _take(self) -> list[Post]:
        batch: list[Post] = []
        taken = 0
        while self._waiting and taken < BATCH:
            batch.append(self._waiting.popleft())
            taken += len(batch[-1].samples)
        self.waiting -= taken
        return batch

    def _put_back(self, batch: list[Post]) -> None:
        self._waiting.extendleft(reversed(batch))
        self.waiting += _size(batch)
        self._make_room()

    def _make_room(self) -> None:
        while (excess := self.waiting - self._limit) > 0:
            oldest = self._waiting[0].samples
            lost = min(excess, len(oldest))
            if lost == len(oldest):
                self._waiting.popleft()
            else:
                del oldest[:lost]
            self.waiting -= lost
            self.dropped += lost


def _size(batch: list[Post]) -> int:
    return sum(len(each.samples) for each in batch)
