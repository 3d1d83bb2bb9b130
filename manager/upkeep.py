"""Upkeep: partitions ahead of time, samples rolled up, and gone what is past its retention or left by the dead."""

import asyncio
import logging
from datetime import timedelta

from manager.repository import rollup, tokens, trail, trim
from manager.repository.database import Session, refusal_of, why
from manager.repository.heartbeat import mend
from manager.repository.host_stats import forget_silent
from manager.repository.metrics import drop_old, forget_dead, prepare
from manager.repository.trim import Retention

log = logging.getLogger(__name__)

RETRY = 10.0
BREATH = 0.05


async def sweep(session: Session, days_ahead: int, retention: Retention) -> None:
    """One round. Each step is by itself, and repeating one does no harm."""
    async with session.use() as connection:
        await prepare(connection, days_ahead)
        await forget_silent(connection)
        await forget_dead(connection)
        if mended := await mend(connection):
            log.warning("mended %d heartbeats that were missing or nobody's", mended)
        await trim.keep(connection, retention)
        while await trim.step(connection):
            await asyncio.sleep(BREATH)
        # whoever writes the trail anew cannot write this log anew: `imctl audit verify --head`
        log.info("the head of the trail is %s", await trail.head_of(connection))
        await tokens.forget_buried(connection)
        # last, and the dropping after it: no sample goes that is not rolled up, and nothing else waits for either
        while (rolled := await rollup.step(connection)).more:
            await asyncio.sleep(BREATH if rolled.rows else 0)
        if dropped := await drop_old(connection, retention.metrics):
            log.info("dropped metrics past their retention: %s", ", ".join(dropped))


async def keep_up(session: Session, days_ahead: int, retention: Retention, interval: timedelta) -> None:
    """Sweeps for ever; soon again where a lock or the database was not to be had."""
    while True:
        pause = interval.total_seconds()
        try:
            await sweep(session, days_ahead, retention)
        except Exception as error:
            pause = min(RETRY, pause)
            if refusal_of(error) is None:
                log.exception("upkeep failed")
            else:
                log.info("upkeep waits: %s", why(error))
        await asyncio.sleep(pause)
