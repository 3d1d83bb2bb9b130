"""What is remembered of the groups whose deaths are held back, and the count of their silent."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text

from manager.domain.preservation import FLEET, Group, Limits, Mode, Survey, Watch, watched
from manager.repository.turn import Turn

REMEMBERED = text("select type, hostname, state, since, calm_since, stopped, stopped_at, tokens from reaper_group")


async def remembered(turn: Turn) -> dict[Group, Watch]:
    """The watches that are kept: of who is held back, or was within the hour."""
    return {
        Group(row.type, row.hostname): Watch(
            row.since, Mode(row.state), row.calm_since, row.stopped, row.stopped_at, row.tokens
        )
        for row in await turn.connection.execute(REMEMBERED)
    }


# The one look at every heartbeat that each pass needs; the others are only for what it finds.
COUNT = text("""
select count(*) as size, count(*) filter (where stale) as silent,
       count(*) filter (where stale <> told_stale) as changed,
       coalesce(sum(3 / extract(epoch from timeout)), 0)::float8 as demand
from lease
""")


@dataclass(frozen=True, slots=True)
class Count:
    """The living, those of them who are silent for too long, those who are to be told of, and the health checks a
    second that all of them together would send."""

    size: int
    silent: int
    changed: int
    demand: float


async def count(turn: Turn) -> Count:
    """The fleet in figures."""
    return Count(**(await turn.connection.execute(COUNT)).one()._mapping)


# Few of a group being silent says nothing, so its size is asked for only where there are more.
SURVEY = text("""
with quiet as materialized (
    select i.type, i.hostname, count(*) as silent
    from lease l join instance i on i.id = l.instance_id
    where l.stale and i.died_revision is null
    group by i.type, i.hostname having count(*) >= :least
)
select q.type, q.hostname, q.silent, s.size
from quiet q cross join lateral (
    select count(*) as size from instance i
    where i.died_revision is null and i.hostname = q.hostname and i.type = q.type offset 0) s
""")


async def look(
    turn: Turn, before: Mapping[Group, Watch], fleet: Count, elapsed: timedelta, limits: Limits
) -> dict[Group, Watch]:
    """The watches after this pass has counted the silent: of all groups that are held back, or were."""
    least = max(1, int(limits.size * limits.calm))
    surveys = {FLEET: Survey(fleet.size, fleet.silent)}
    if fleet.silent >= least:
        rows = await turn.connection.execute(SURVEY, {"least": least})
        surveys |= {Group(row.type, row.hostname): Survey(row.size, row.silent) for row in rows}
    after = {
        group: watched(group, before.get(group, Watch(turn.now)), surveys.get(group, NOBODY), turn.now, elapsed, limits)
        for group in {*surveys, *before}
    }
    return {group: watch for group, watch in after.items() if not watch.forgettable(turn.now)}


NOBODY = Survey(0, 0)

FORGET = text("delete from reaper_group")

KEEP = text("""
insert into reaper_group (type, hostname, state, since, calm_since, stopped, stopped_at, tokens)
select * from unnest(cast(:types as smallint[]), cast(:hostnames as text[]), cast(:states as smallint[]),
                     cast(:sinces as timestamptz[]), cast(:calms as timestamptz[]), cast(:stops as interval[]),
                     cast(:stopped as timestamptz[]), cast(:tokens as double precision[]))
""")


async def keep(turn: Turn, before: Mapping[Group, Watch], after: Mapping[Group, Watch]) -> None:
    """Remembers these, and no others."""
    if before == after:
        return
    await turn.connection.execute(FORGET)
    kept = [(group.type, group.hostname, watch) for group, watch in sorted(after.items())]
    await turn.connection.execute(
        KEEP,
        {
            "types": [kind for kind, _, _ in kept],
            "hostnames": [hostname for _, hostname, _ in kept],
            "states": [int(watch.mode) for _, _, watch in kept],
            "sinces": [watch.since for _, _, watch in kept],
            "calms": [watch.calm_since for _, _, watch in kept],
            "stops": [watch.stopped for _, _, watch in kept],
            "stopped": [watch.stopped_at for _, _, watch in kept],
            "tokens": [watch.tokens for _, _, watch in kept],
        },
    )
