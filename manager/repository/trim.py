"""Trimming: the history and the tombstones past their retention, through the owner's functions."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.repository import denied, trail

STEP = 5_000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is kept. Tombstones at least as long as the history, since it speaks of them.

    `metrics` is of the samples; what they came to in each minute and hour is kept at least as long.
    """

    metrics: timedelta
    history: timedelta
    tombstones: timedelta
    minutes: timedelta = timedelta(days=90)
    hours: timedelta = timedelta(days=400)
    trail: timedelta = timedelta(days=400)
    denied: timedelta = timedelta(days=400)


KEPT = ("history", "tombstones", "minutes", "hours", "trail", "denied")

KEEP = text("""
update control set history_kept = k.history, tombstones_kept = k.tombstones, minutes_kept = k.minutes,
                   hours_kept = k.hours, trail_kept = k.trail, denied_kept = k.denied
from (select cast(:history as interval) as history, cast(:tombstones as interval) as tombstones,
             cast(:minutes as interval) as minutes, cast(:hours as interval) as hours,
             cast(:trail as interval) as trail, cast(:denied as interval) as denied) k
where (history_kept, tombstones_kept, minutes_kept, hours_kept, trail_kept, denied_kept)
    <> (k.history, k.tombstones, k.minutes, k.hours, k.trail, k.denied)
""")


async def keep(connection: AsyncConnection, retention: Retention) -> None:
    """Puts the retentions where the owner's functions look for them."""
    kept = {name: getattr(retention, name) for name in KEPT}
    await connection.execute(KEEP, kept)


COMPACT = text("select compact_history(:step)")
DELETE = text("select delete_compacted(:step)")
BURY = text("select bury_dead(:step)")


async def step(connection: AsyncConnection) -> int:
    """Cuts a little more off the history, deletes a little of what was cut off; how much, and 0 when all is done."""
    cut = (await connection.execute(COMPACT, {"step": STEP})).scalar() is not None
    deleted = (await connection.execute(DELETE, {"step": STEP})).scalar_one()
    buried = (await connection.execute(BURY, {"step": STEP})).scalar_one()
    sealed = await trail.trim(connection, STEP)
    forgotten = await denied.trim(connection, STEP)
    return int(cut) + int(deleted) + int(buried) + int(sealed) + forgotten
