"""Heartbeats: when each living instance was last heard of, and the verdict that a health check gets.

A row here proves neither life nor death; `instance` does. So writing and deleting rows may be repeated at will.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.calls import Checked, Outcome, Reason
from manager.domain.grace import EPOCH_GRACE
from manager.domain.instance import Check, InstanceId
from manager.domain.refusals import EpochChanged
from manager.repository.database import Session
from manager.repository.driver import affected, row, rows

# A statement of its own, begun after the calls arrived: a kill that was answered before is seen. The time is the
# database's, the only one that is ever stored. One row, whose arrays hold what is known of each id, in their order: a
# row for each would cost more than all the rest.
VERDICTS = text("""
select c.now, c.stretch, v.timeouts, v.dead,
       exists (select from history_epoch e where e.number > 1 and e.opened_at > c.now - cast(:grace as interval))
       as restored
from (select clock_timestamp() as now, stretch from control) c
cross join lateral (
    select array_agg(i.timeout order by u.place) as timeouts,
           array_agg(i.died_revision is not null order by u.place) as dead
    from unnest(cast(:ids as uuid[])) with ordinality u(id, place)
    left join lateral (select died_revision, timeout from instance where id = u.id offset 0) i on true) v
""")

Verdict = Outcome | EpochChanged

LOST = "the database was restored, and does not know this instance: register it again, under the same id"


@dataclass(frozen=True, slots=True)
class Moment:
    """When verdicts were given, by the database's clock, and by what all intervals are multiplied then."""

    now: datetime
    stretch: float


async def verdicts(connection: AsyncConnection, ids: Sequence[InstanceId]) -> tuple[list[Verdict], Moment]:
    """What each of `ids` is to be told, in their order: `Checked` for the living; and the moment of the verdict.

    To an id that a freshly restored database does not know it is never said that it must terminate.
    """
    known = await row(connection, VERDICTS, {"ids": ids, "grace": EPOCH_GRACE})
    unknown: Verdict = EpochChanged(LOST) if known.restored else Outcome.refused(Reason.UNKNOWN_INSTANCE)
    told: dict[timedelta | None, Verdict] = {None: unknown}  # who has the same timeout is told the same
    told |= {each: Checked(pause=each * known.stretch / 3) for each in set(known.timeouts) - {None}}
    dead = Outcome.refused(Reason.DEAD)
    answers = [dead if died else told[each] for each, died in zip(known.timeouts, known.dead, strict=True)]
    return answers, Moment(known.now, known.stretch)


# Sorted, since unsorted batches lock each other out; what somebody holds is skipped and asked again. Written only
# when the stored time is older than a tenth of the timeout, or lies in the future, the clock having been set back.
BEAT = text("""
update heartbeat set last_seen = :now, stretch = :stretch
where instance_id = any(:ids) and instance_id in (
    select instance_id from heartbeat
    where instance_id = any(:ids) and (last_seen <= cast(:now as timestamptz) - 0.1 * timeout or last_seen > :now)
    order by instance_id for no key update skip locked)
""")

FRESH = text("""
select instance_id, cast(:now as timestamptz) - last_seen < 0.1 * timeout and last_seen <= c.now as fresh
from heartbeat cross join (select clock_timestamp() as now from control) c
where instance_id = any(:ids)
""")

# The row of a living instance is missing only where somebody took it away.
HEAL = text("""
insert into heartbeat (instance_id, timeout, last_seen, stretch)
select id, timeout, :now, :stretch from instance where id = any(:ids) and died_revision is null
on conflict (instance_id) do nothing
""")


@dataclass(frozen=True, slots=True)
class Group:
    """Ids whose heartbeats live behind one connection."""

    session: Session
    ids: Sequence[InstanceId]


class Heartbeats:
    """Where heartbeats are written: all behind one connection here, and the one place to spread them over more."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def groups(self, ids: Sequence[InstanceId]) -> list[Group]:
        """The ids by the connection that serves them, without empty groups."""
        return [Group(self._session, ids)] if ids else []

    async def record(self, ids: Sequence[InstanceId], moment: Moment) -> set[InstanceId]:
        """Records that the living `ids`, each given once, were heard of at this moment; those for whom neither it, nor
        one at most a tenth of their timeout before, is stored yet."""
        missed: set[InstanceId] = set()
        for group in self.groups(ids):
            async with group.session.use() as connection:
                missed |= await _record(connection, group.ids, moment)
        return missed


async def _record(connection: AsyncConnection, ids: Sequence[InstanceId], moment: Moment) -> set[InstanceId]:
    given = {"now": moment.now, "stretch": moment.stretch}
    if await affected(connection, BEAT, {"ids": ids, **given}) == len(ids):
        return set()
    found = await rows(connection, FRESH, {"ids": ids, "now": moment.now})
    fresh = {each.instance_id: each.fresh for each in found}
    missing = [each for each in ids if each not in fresh]
    if missing:
        await connection.execute(HEAL, {"ids": missing, **given})
    return {each for each in ids if not fresh.get(each)}


CHECKS = text("""
select i.id, l.last_seen, greatest(l.due_at, l.forgiven_until) as deadline, not l.stale as healthy
from unnest(cast(:ids as uuid[])) u(id)
cross join lateral (select id from instance where id = u.id and died_revision is null offset 0) i
cross join lateral (select * from lease where instance_id = u.id offset 0) l
""")


async def checks(connection: AsyncConnection, ids: Sequence[InstanceId]) -> dict[InstanceId, Check]:
    """The last health checks of the living among `ids`."""
    found = await rows(connection, CHECKS, {"ids": ids})
    return {each.id: Check(each.last_seen, each.deadline, each.healthy) for each in found}


MISSING = text("""
insert into heartbeat (instance_id, timeout, last_seen)
select i.id, i.timeout, c.now from instance i cross join (select clock_timestamp() as now from control) c
where i.died_revision is null and not exists (select from heartbeat h where h.instance_id = i.id)
on conflict (instance_id) do nothing
""")

ORPHANED = text("""
delete from heartbeat h
where not exists (select from instance i where i.id = h.instance_id and i.died_revision is null)
  and h.last_seen < (select clock_timestamp() from control) - interval '1 minute'
""")


async def mend(connection: AsyncConnection) -> int:
    """Gives rows back to the living who lost theirs, and takes those of the dead away; how many."""
    counts: Iterable[int] = [(await connection.execute(each)).rowcount for each in (MISSING, ORPHANED)]
    return sum(counts)
