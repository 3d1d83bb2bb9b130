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
from manager.settings import Settings

log = logging.getLogger(__name__)

RETRY = 10.0
BREATH = 0.05


def retention_of(settings: Settings) -> Retention:
    """How long what is kept by these settings."""
    # the history speaks of the dead: their tombstones outlast it
    tombstones = max(settings.tombstone_retention, settings.history_retention)
    # and what is coarser takes over from what is finer
    minutes = max(settings.minutes_retention, settings.metrics_retention)
    hours = max(settings.hours_retention, minutes)
    return Retention(
        metrics=settings.metrics_retention,
        history=settings.history_retention,
        tombstones=tombstones,
        minutes=minutes,
        hours=hours,
        trail=settings.trail_retention,
        denied=settings.denied_retention,
    )


async def sweep(session: Session, days_ahead: int, retention: Retention) -> Retention:
    """One round; how long what is kept by now. Each step is by itself, and repeating one does no harm."""
    async with session.use() as connection:
        await prepare(connection, days_ahead)
        await forget_silent(connection)
        await forget_dead(connection)
        if mended := await mend(connection):
            log.warning("mended %d heartbeats that were missing or nobody's", mended)
        kept = await trim.keep(connection, retention)
        while await trim.step(connection):
            await asyncio.sleep(BREATH)
        # whoever writes the trail anew cannot write this log anew: `imctl audit verify --head`
        log.info("the head of the trail is %s", await trail.head_of(connection))
        await tokens.forget_buried(connection)
        # last, and the dropping after it: no sample goes that is not rolled up, and nothing else waits for either
        while (rolled := await rollup.step(connection)).more:
            await asyncio.sleep(BREATH if rolled.rows else 0)
        if dropped := await drop_old(connection):
            log.info("dropped metrics past their retention: %s", ", ".join(dropped))
        return kept


async def keep_up(session: Session, days_ahead: int, retention: Retention, interval: timedelta) -> None:
    """Sweeps for ever; soon again where a lock or the database was not to be had."""
    told = retention
    while True:
        pause = interval.total_seconds()
        try:
            kept = await sweep(session, days_ahead, retention)
            if kept != told and (longer := kept.longer(retention)):
                log.warning(
                    "kept for longer than this manager's settings say, until `imctl admin retention`: %s",
                    ", ".join(longer),
                )
            told = kept
        except Exception as error:
            pause = min(RETRY, pause)
            if refusal_of(error) is None:
                log.exception("upkeep failed")
            else:
                log.info("upkeep waits: %s", why(error))
        await asyncio.sleep(pause)
