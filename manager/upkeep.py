"""Upkeep: partitions made ahead and dropped in time, and what the dead and the silent left behind swept up."""

import asyncio
import logging
from datetime import timedelta

from manager.domain.refusals import Refusal
from manager.repository.database import Session, refusal_of
from manager.repository.heartbeat import mend
from manager.repository.host_stats import forget_silent
from manager.repository.metrics import forget_dead, keep

log = logging.getLogger(__name__)

RETRY = 10.0


async def sweep(session: Session, days_ahead: int, retention: timedelta) -> None:
    """One round. Each step is by itself, and repeating one does no harm."""
    async with session.use() as connection:
        if dropped := await keep(connection, days_ahead, retention):
            log.info("dropped metrics past their retention: %s", ", ".join(dropped))
        await forget_silent(connection)
        await forget_dead(connection)
        if mended := await mend(connection):
            log.warning("mended %d heartbeats that were missing or nobody's", mended)


async def keep_up(session: Session, days_ahead: int, retention: timedelta, interval: timedelta) -> None:
    """Sweeps for ever; soon again where a lock or the database was not to be had."""
    while True:
        pause = interval.total_seconds()
        try:
            await sweep(session, days_ahead, retention)
        except Exception as error:
            pause = min(RETRY, pause)
            refusal = refusal_of(error)
            if not isinstance(refusal, Refusal):
                log.exception("upkeep failed")
            else:
                log.info("upkeep waits: %s", error)
        await asyncio.sleep(pause)
