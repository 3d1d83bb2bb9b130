"""Metrics on their way in: a bounded buffer, stored within a second, that never makes a post wait."""

import asyncio
import logging
from collections import deque
from datetime import timedelta

from manager.domain.metrics import Sample
from manager.repository.database import Session, is_bad_data, refusal_of, why
from manager.repository.metrics import store

log = logging.getLogger(__name__)

BATCH = 100_000  # the more at once, the fewer times the latest values of the same instances are written


class Samples:
    """The buffer and its one flusher. `dropped` counts what a full buffer lost, `orphaned` what the dead sent."""

    def __init__(self, session: Session, *, buffer: int, interval: timedelta) -> None:
        self._session = session
        self._interval = interval.total_seconds()
        self._waiting: deque[Sample] = deque()
        self._limit = buffer
        self._closed = asyncio.Event()
        self.dropped = 0
        self.orphaned = 0

    @property
    def waiting(self) -> int:
        """How many wait to be stored."""
        return len(self._waiting)

    def post(self, *samples: Sample) -> None:
        """Takes samples; where the buffer is full, the oldest make room."""
        self._waiting.extend(samples)
        for _ in range(len(self._waiting) - self._limit):
            self._waiting.popleft()
            self.dropped += 1

    async def serve(self) -> None:
        """Stores what has come every interval, until the buffer is closed; then once more."""
        while not self._closed.is_set():
            try:
                async with asyncio.timeout(self._interval):
                    await self._closed.wait()
            except TimeoutError:
                await self._flush()
        await self._flush()

    def close(self) -> None:
        """Ends `serve` after a last flush."""
        self._closed.set()

    async def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                async with self._session.use() as connection:
                    self.orphaned += len(batch) - await store(connection, batch)
            except Exception as error:
                if refusal_of(error) is None or is_bad_data(error):
                    self.dropped += len(batch)
                    log.exception("%d samples could not be stored, and were dropped", len(batch))
                    continue
                log.warning("%d samples wait for the database: %s", len(batch), why(error))
                self._put_back(batch)
                return

    def _put_back(self, batch: list[Sample]) -> None:
        room = max(0, self._limit - len(self._waiting))
        self.dropped += max(0, len(batch) - room)
        self._waiting.extendleft(reversed(batch[len(batch) - min(room, len(batch)) :]))
