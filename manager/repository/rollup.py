"""Rolling up: samples into minutes, minutes into hours, a bounded while at a time and as often as one likes."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.metrics import GpuSample, LlmSample, ProxySample, SystemSample
from manager.repository.metrics import TABLE

# What each kind keeps, beside what tells a row: the highest values, then the sums; as in the migration.
HIGHEST: dict[type[Any], tuple[str, ...]] = {
    SystemSample: ("used_memory_bytes", "total_memory_bytes"),
    ProxySample: ("active_connections", "total_connections", "bytes_sent", "bytes_received"),
    GpuSample: ("used_memory_bytes", "total_memory_bytes", "utilization_percent"),
    LlmSample: ("request_count", "tokens_received", "tokens_sent"),
}
SUMS: dict[type[Any], tuple[str, ...]] = {
    SystemSample: ("used_memory_sum",),
    ProxySample: ("active_sum", "connections_grown", "sent_grown", "received_grown"),
    GpuSample: ("used_memory_sum", "utilization_sum"),
    LlmSample: ("requests_grown", "received_grown", "sent_grown"),
}

# Up to half a minute ago: whoever stores samples may be at it for a while, and their `at` is from when they began.
# The five minutes before are rolled up anew, for those who took longer; a clock that was set back only has more of it
# done anew. It begins with the oldest day that has any, since partitions are read from the oldest on, and to look for
# the first sample of a large day would take longer than a statement may. One statement: what was rolled up and how far
# it got are kept together or not at all. Whoever finds the place taken leaves it to who has it.
MINUTES = """
with place as (
    select r.name, coalesce(r.done_until, date_bin('1 day', (select m.at from {table} m limit 1), t.origin)) as done,
           date_bin('1 minute', clock_timestamp() - interval '30 seconds', t.origin) as most
    from metrics_rollup r cross join (select timestamptz '2000-01-01 00:00+00' as origin) t
    where r.name = '{table}_minutes'
    for update of r skip locked
), span as (
    select p.name, p.most, least(p.done, p.most) - interval '5 minutes' as since,
           least(p.done + interval '10 minutes', p.most) as until
    from place p where p.done <> p.most
), rolled as (
    insert into {table}_minutes
    select f.* from span s cross join lateral {table}_rolled(s.since, s.until) f
    on conflict ({key}) do update set samples = excluded.samples, last_at = excluded.last_at, {set}
    returning 1
), done as (
    update metrics_rollup r set done_until = s.until from span s where r.name = s.name
)
select s.until < s.most as more, (select count(*) from rolled) as rows from span s
"""

# The hour before is rolled up anew too: some of its minutes may have been.
HOURS = """
with place as (
    select r.name, date_bin('1 hour', coalesce(r.done_until, (select min(m.at) from {table}_minutes m)), t.origin)
               as done,
           date_bin('1 hour', q.done_until, t.origin) as most, q.done_until as minutes_done
    from metrics_rollup r join metrics_rollup q on q.name = '{table}_minutes'
    cross join (select timestamptz '2000-01-01 00:00+00' as origin) t
    where r.name = '{table}_hours'
    for update of r skip locked
), span as (
    select p.name, p.most, least(p.done, p.most) - interval '1 hour' as since,
           least(p.done + interval '1 hour', p.most) as until
    from place p where p.done <> p.most or p.minutes_done < p.done + interval '15 minutes'
), rolled as (
    insert into {table}_hours
    select f.* from span s cross join lateral {table}_hourly(s.since, s.until) f
    on conflict ({key}) do update set samples = excluded.samples, last_at = excluded.last_at, {set}
    returning 1
), done as (
    update metrics_rollup r set done_until = s.until from span s where r.name = s.name
)
select s.until < s.most as more, (select count(*) from rolled) as rows from span s
"""


def _statement(script: str, kind: type[Any]) -> TextClause:
    key = "instance_id, gpu_index, at" if kind is GpuSample else "instance_id, at"
    changed = ", ".join(f"{each} = excluded.{each}" for each in (*HIGHEST[kind], *SUMS[kind]))
    return text(script.format(table=TABLE[kind], key=key, set=changed))


INTO_MINUTES = {kind: _statement(MINUTES, kind) for kind in TABLE}
INTO_HOURS = {kind: _statement(HOURS, kind) for kind in TABLE}


@dataclass(frozen=True, slots=True)
class Rolled:
    """How many rows a step wrote, and whether there is more to be done."""

    rows: int
    more: bool


async def step(connection: AsyncConnection) -> Rolled:
    """Rolls up ten minutes more of each kind, and an hour more of the minutes."""
    found = [(await connection.execute(each)).one_or_none() for each in (*INTO_MINUTES.values(), *INTO_HOURS.values())]
    done = [row for row in found if row is not None]
    return Rolled(sum(row.rows for row in done), any(row.more for row in done))
