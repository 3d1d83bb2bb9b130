"""Safeguards: what an acknowledged change survives at present, asked of the database for the gauges."""

import asyncio
import logging
from math import nan

from manager.repository.database import Readers, refusal_of
from manager.repository.durability import Safety, look

log = logging.getLogger(__name__)

EVERY = 10.0


class Safeguards:
    """What was found last; nothing is known before the first answer."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._found: Safety | None = None

    @property
    def holds(self) -> float:
        """The durability as a number; no number as long as it is not known."""
        return nan if self._found is None else float(self._found.holds)

    @property
    def unarchived(self) -> bool:
        """Whether archiving has failed, and did not succeed since."""
        return self._found is not None and self._found.unarchived

    async def watch(self) -> None:
        """Asks every ten seconds, for ever. While the database is away what was known stays known."""
        while True:
            try:
                async with self._readers.use() as connection:
                    self._found = await look(connection)
            except Exception as error:
                if refusal_of(error) is None:
                    log.exception("nobody knows which durability holds")
            await asyncio.sleep(EVERY)
