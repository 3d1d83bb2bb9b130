"""Calls that are turned away: counted in memory, and written every few seconds, so that a flood costs no writes."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic

from manager.repository import denied
from manager.repository.database import Readers, refusal_of, why
from manager.repository.denied import Denied

log = logging.getLogger(__name__)

WRITTEN_EVERY = 5.0
WINDOW = 3600.0  # for so long what is counted has its row
OTHERS = "others"


class Denials:
    """Counts by caller, address, method and status. In an hour `rows` of these have a row of their own; what comes
    beyond is counted by method and status alone, so that strangers can fill neither the memory nor the table."""

    def __init__(self, readers: Readers, rows: int, clock: Callable[[], float] = monotonic) -> None:
        self._readers = readers
        self._rows = rows
        self._clock = clock
        self._begun = clock()
        self._known: set[Denied] = set()
        self._waiting: Counter[Denied] = Counter()

    def count(self, who: str, address: str, method: str, code: int) -> None:
        """One more call that was turned away."""
        one = Denied(who, address, method, code)
        if self._clock() - self._begun > WINDOW:
            self._known = set(self._waiting)
            self._begun = self._clock()
        if one not in self._known and len(self._known) >= self._rows:
            one = Denied("", OTHERS, method, code)
        else:
            self._known.add(one)
        self._waiting[one] += 1

    async def watch(self) -> None:
        """Writes every five seconds, for ever."""
        while True:
            await asyncio.sleep(WRITTEN_EVERY)
            await self.write()

    async def write(self) -> None:
        """Writes what has been counted; what cannot be written is counted on."""
        counted, self._waiting = self._waiting, Counter()
        if not counted:
            return
        try:
            async with self._readers.use() as connection:
                await denied.add(connection, counted)
        except asyncio.CancelledError:
            self._waiting.update(counted)
            raise
        except Exception as error:
            if refusal_of(error) is None:  # nor would it be better the next time
                log.exception("%d denied calls could not be written", counted.total())
            else:
                self._waiting.update(counted)
                log.info("denied calls wait to be written: %s", why(error))
