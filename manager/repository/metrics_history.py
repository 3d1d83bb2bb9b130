"""Samples of the past: one for each bucket of a window, with the highest value of each field."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import InstanceId
from manager.domain.metrics import GpuSample, LlmSample, ProxySample, SystemSample, Window
from manager.domain.refusals import Exhausted

S = TypeVar("S", ProxySample, SystemSample, GpuSample, LlmSample)

MOST = 20_000

# One row at least, so that the window is known as it was understood.
READ = """
with span as materialized (
    select w.since, w.until,
           greatest((w.until - w.since) / cast(:points as integer) + interval '1 microsecond',
                    interval '1 millisecond') as width
    from (select u.until, coalesce(cast(:since as timestamptz), u.until - interval '1 hour') as since
          from (select coalesce(cast(:until as timestamptz), clock_timestamp()) as until) u) w
)
select s.since, s.until, cast(:id as uuid) as instance_id, p.*
from span s left join lateral (
    select date_bin(s.width, m.at, s.since) as bucket, max(m.at) as measured_at, {values}
    from {table} m
    where m.instance_id = :id and m.at >= s.since and m.at < s.until
    group by {key} order by {key} limit 20001
) p on true
order by {key}
"""


def _statement(table: str, *values: str, key: str = "bucket") -> TextClause:
    highest = ", ".join(f"max(m.{each}) as {each}" for each in values)
    values_of = f"m.gpu_index, {highest}" if "gpu_index" in key else highest
    return text(READ.format(table=table, values=values_of, key=key))


POINTS: dict[type[Any], TextClause] = {
    SystemSample: _statement("system_metrics", "used_memory_bytes", "total_memory_bytes"),
    ProxySample: _statement("proxy_metrics", "active_connections", "total_connections", "bytes_sent", "bytes_received"),
    GpuSample: _statement(
        "gpu_metrics", "used_memory_bytes", "total_memory_bytes", "utilization_percent", key="bucket, gpu_index"
    ),
    LlmSample: _statement("llm_metrics", "request_count", "tokens_received", "tokens_sent"),
}

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
    given = {"id": of, "since": window.since, "until": window.until, "points": window.points}
    rows = (await connection.execute(POINTS[kind], given)).all()
    if len(rows) > MOST:
        raise Exhausted(f"there are more than {MOST} points: ask for fewer of them, or for a shorter time")
    names = list(kind.__dataclass_fields__)
    points = [kind(**{name: getattr(row, name) for name in names}) for row in rows if row.bucket is not None]
    return Past(rows[0].since, rows[0].until, points)
