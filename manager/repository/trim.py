"""Trimming: the history and the tombstones past their retention, through the owner's functions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.actor import Actor
from manager.domain.refusals import Refusal
from manager.repository import denied, trail
from manager.repository.database import transaction
from manager.repository.turn import LOCK

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

    def longer(self, other: "Retention") -> Mapping[str, tuple[timedelta, timedelta]]:
        """What is kept for longer than by another: for how long, and for how long by that."""
        both = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        return {name: (mine, its) for name, (mine, its) in both.items() if mine > its}


KEEP = text("""
update control set metrics_kept = k.metrics, history_kept = k.history, tombstones_kept = k.tombstones,
                   minutes_kept = k.minutes, hours_kept = k.hours, trail_kept = k.trail, denied_kept = k.denied
from (select cast(:metrics as interval) as metrics, cast(:history as interval) as history,
             cast(:tombstones as interval) as tombstones, cast(:minutes as interval) as minutes,
             cast(:hours as interval) as hours, cast(:trail as interval) as trail,
             cast(:denied as interval) as denied) k
where (metrics_kept, history_kept, tombstones_kept, minutes_kept, hours_kept, trail_kept, denied_kept)
    <> (k.metrics, k.history, k.tombstones, k.minutes, k.hours, k.trail, k.denied)
""")
KEPT = text("""
select metrics_kept as metrics, history_kept as history, tombstones_kept as tombstones, minutes_kept as minutes,
       hours_kept as hours, trail_kept as trail, denied_kept as denied
from control
""")


async def kept(connection: AsyncConnection) -> Retention:
    """How long what is kept."""
    return Retention(**(await connection.execute(KEPT)).one()._mapping)


async def keep(connection: AsyncConnection, retention: Retention) -> Retention:
    """Puts the retentions where the owner's functions look for them; what is kept from now on.

    That is longer where it was longer before: only im_retention may shorten it.
    """
    await connection.execute(KEEP, asdict(retention))
    return await kept(connection)


class NotYours(Refusal):
    """Only im_retention may do that."""


async def shorten(connection: AsyncConnection, retention: Retention, operator: Actor) -> tuple[Retention, Retention]:
    """Has everything kept for as long as is said and no longer, as an act on the trail: what it was, and what it is.

    Raises NotYours where the session's role may not, and has then changed nothing.
    """
    async with transaction(connection, LOCK):
        before, after = await kept(connection), await keep(connection, retention)
        if after.longer(retention):
            raise NotYours("what is kept is shortened by a member of im_retention, or a superuser, alone")
        if before != after:
            await trail.note(connection, "RETENTION", operator, told(before, after))
        return before, after


def told(before: Retention, after: Retention) -> str:
    """What has changed, such as `trail from 400 days to 60 days`."""
    pairs = [(each.name, getattr(before, each.name), getattr(after, each.name)) for each in fields(before)]
    return ", ".join(f"{name} from {_span(old)} to {_span(new)}" for name, old, new in pairs if old != new)


def _span(kept: timedelta) -> str:
    if kept % timedelta(days=1):
        return f"{kept.total_seconds():g} s"
    return "1 day" if kept.days == 1 else f"{kept.days} days"


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
