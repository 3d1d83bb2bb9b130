"""Samples of the past: one for each bucket of a window, with the highest value of each field.

What is read is as coarse as the buckets: the hours, the minutes, or the samples themselves. The newest, which are
rolled up by nobody yet, are always read from the samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import InstanceId
from manager.domain.metrics import GpuSample, LlmSample, ProxySample, SystemSample, Window
from manager.domain.refusals import Exhausted
from manager.repository.metrics import TABLE
from manager.repository.rollup import HIGHEST

S = TypeVar("S", ProxySample, SystemSample, GpuSample, LlmSample)

MOST = 20_000
HIGHEST_TOLD = 2**63 - 1

# The window as it is understood. Hours and minutes are taken where a bucket is as long, and where what is finer is
# past its retention; the window then begins with a whole one, and each bucket is some of them.
WINDOW = """
asked as materialized (
    select u.now, u.until, coalesce(cast(:since as timestamptz), u.until - interval '1 hour') as since
    from (select t.now, coalesce(cast(:until as timestamptz), t.now) as until
          from (select clock_timestamp() as now) t) u
), level as materialized (
    select a.*, case
               when a.until - a.since >= cast(:points as integer) * interval '1 hour'
                   or a.since < a.now - greatest(c.metrics_kept, c.minutes_kept) then interval '1 hour'
               when a.until - a.since >= cast(:points as integer) * interval '1 minute'
                   or a.since < a.now - c.metrics_kept or cast(:together as boolean) then interval '1 minute'
           end as unit
    from asked a cross join control c
), span as materialized (
    select l.unit, l.until, coalesce(r.since, l.since) as since, coalesce(r.hours_until, l.since) as hours_until,
           coalesce(r.minutes_until, l.since) as minutes_until
    from level l left join lateral rolled_span(:name, l.unit, l.since, l.until) r on l.unit is not null
), buckets as materialized (
    select s.*, case when s.unit is null
        then greatest((s.until - s.since) / cast(:points as integer) + interval '1 microsecond',
                      interval '1 millisecond')
        else s.unit * greatest(1, ceil(
            extract(epoch from s.until - s.since) / extract(epoch from s.unit) / cast(:points as integer))) end as width
    from span s
)
"""

# One row at least, so that the window is known as it was understood.
READ = """
with {window}
select s.since, s.until, cast(:id as uuid) as instance_id, p.*
from buckets s left join lateral (
    select date_bin(s.width, m.at, s.since) as bucket, max(m.last_at) as measured_at, {highest}
    from (
        select {of_hours} from {table}_hours h
        where h.instance_id = :id and h.at >= s.since and h.at < s.hours_until
        union all
        select {of_hours} from {table}_minutes h
        where h.instance_id = :id and h.at >= s.hours_until and h.at < s.minutes_until
        union all
        select {of_samples} from {table} h
        where h.instance_id = :id and h.at >= s.minutes_until and h.at < s.until
    ) m
    group by {key} order by {key} limit 20001
) p on true
order by {key}
"""


def _statement(kind: type[Any]) -> TextClause:
    index = ("gpu_index",) if kind is GpuSample else ()
    highest = [f"max(m.{each}) as {each}" for each in HIGHEST[kind]]
    values = [f"h.{each}" for each in (*index, *HIGHEST[kind])]
    return text(
        READ.format(
            window=WINDOW,
            table=TABLE[kind],
            highest=", ".join([*(f"m.{each}" for each in index), *highest]),
            of_hours=", ".join(("h.at", "h.last_at", *values)),
            of_samples=", ".join(("h.at", "h.at as last_at", *values)),
            key=", ".join(("bucket", *index)),
        )
    )


POINTS: dict[type[Any], TextClause] = {kind: _statement(kind) for kind in TABLE}

# What all of a subtree had together in each minute or hour, and of each bucket the highest; of what only grows, by how
# much it grew since the window began.
TOGETHER: dict[type[Any], str] = {
    SystemSample: "round(max(u.used_memory_bytes)) as used_memory_bytes, max(u.total_memory_bytes)"
    " as total_memory_bytes",
    ProxySample: "max(u.active_connections) as active_connections,"
    " sum(sum(u.connections)) over grown as total_connections, sum(sum(u.bytes_sent)) over grown as bytes_sent,"
    " sum(sum(u.bytes_received)) over grown as bytes_received",
    GpuSample: "0 as gpu_index, max(u.used_memory_bytes) as used_memory_bytes,"
    " max(u.total_memory_bytes) as total_memory_bytes, max(u.utilization_percent) as utilization_percent",
    LlmSample: "sum(sum(u.requests)) over grown as request_count,"
    " sum(sum(u.tokens_received)) over grown as tokens_received, sum(sum(u.tokens_sent)) over grown as tokens_sent",
}
READ_TOGETHER = """
with below as materialized (select ever_below(:id) as ids), {window}
select s.since, s.until, cast(:id as uuid) as instance_id, p.*
from buckets s cross join below b left join lateral (
    select date_bin(s.width, u.at, s.since) as bucket, least(max(u.at) + s.unit, s.until) as measured_at, {values}
    from {table}_usage(b.ids, s.unit, s.since, s.until) u
    group by bucket window grown as (order by date_bin(s.width, u.at, s.since)) limit 20001
) p on true
order by bucket
"""


def _together(kind: type[Any]) -> TextClause:
    return text(READ_TOGETHER.format(window=WINDOW, table=TABLE[kind], values=TOGETHER[kind]))


POINTS_TOGETHER: dict[type[Any], TextClause] = {kind: _together(kind) for kind in TABLE}

KNOWN = text("select exists (select from instance where id = :id)")


@dataclass(frozen=True, slots=True)
class Past(Generic[S]):
    """The window as it was understood, and its points by time; `measured_at` is the arrival of the bucket's last."""

    since: datetime
    until: datetime
    points: Sequence[S]


async def look_back(connection: AsyncConnection, kind: type[S], of: InstanceId, window: Window) -> Past[S] | None:
    """What an instance posted of that kind, be it alive or dead; None for an id that never was.

    Raises Exhausted where that is too much at once: each GPU has points of its own.
    """
    if not (await connection.execute(KNOWN, {"id": of})).scalar_one():
        return None
    statement = (POINTS_TOGETHER if window.subtree else POINTS)[kind]
    given = {"id": of, "since": window.since, "until": window.until, "points": window.points}
    rows = (await connection.execute(statement, given | {"name": TABLE[kind], "together": window.subtree})).all()
    if len(rows) > MOST:
        raise Exhausted(f"there are more than {MOST} points: ask for fewer of them, or for a shorter time")
    points = [_point(kind, row) for row in rows if row.bucket is not None]
    return Past(rows[0].since, rows[0].until, points)


def _point(kind: type[S], row: Any) -> S:
    """Sums are numeric, since they may be more than a field of the contract holds."""
    return kind(**{name: _number(getattr(row, name)) for name in kind._fields})


def _number(value: Any) -> Any:
    return min(int(value), HIGHEST_TOLD) if isinstance(value, Decimal) else value
