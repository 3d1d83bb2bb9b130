"""Samples: COPY into the history, and one row of latest values for each living instance."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, repeat
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import InstanceId
from manager.domain.metrics import GpuSample, LlmSample, ProxySample, Sample, SystemSample
from manager.repository.database import transaction
from manager.repository.driver import driver, rows

S = TypeVar("S", ProxySample, SystemSample, GpuSample, LlmSample)

TABLE: dict[type[Any], str] = {
    ProxySample: "proxy_metrics",
    SystemSample: "system_metrics",
    GpuSample: "gpu_metrics",
    LlmSample: "llm_metrics",
}

Record = tuple[Any, ...]  # when it arrived, and a sample's fields
# of a record
KEY: dict[type[Any], Callable[[Record], Any]] = {kind: itemgetter(1) for kind in TABLE} | {GpuSample: itemgetter(1, 3)}
MICROSECOND = timedelta(microseconds=1)
SLICE = 5_000  # records that are written in one go, while nobody else is served

LIVING = text("""
select u.id, clock_timestamp() as now
from unnest(cast(:ids as uuid[])) u(id)
cross join lateral (select died_revision from instance where id = u.id offset 0) i
where i.died_revision is null
""")

LATEST = {
    SystemSample: text("""
insert into latest_system_metrics (at, instance_id, measured_at, used_memory_bytes, total_memory_bytes)
select * from unnest(cast(:at as timestamptz[]), cast(:instance_id as uuid[]), cast(:measured_at as timestamptz[]),
                     cast(:used_memory_bytes as bigint[]), cast(:total_memory_bytes as bigint[]))
on conflict (instance_id) do update
set at = excluded.at, measured_at = excluded.measured_at, used_memory_bytes = excluded.used_memory_bytes,
    total_memory_bytes = excluded.total_memory_bytes
where latest_system_metrics.at < excluded.at
"""),
    ProxySample: text("""
insert into latest_proxy_metrics (at, instance_id, measured_at, active_connections, total_connections, bytes_sent,
                                  bytes_received)
select * from unnest(cast(:at as timestamptz[]), cast(:instance_id as uuid[]), cast(:measured_at as timestamptz[]),
                     cast(:active_connections as bigint[]), cast(:total_connections as bigint[]),
                     cast(:bytes_sent as bigint[]), cast(:bytes_received as bigint[]))
on conflict (instance_id) do update
set at = excluded.at, measured_at = excluded.measured_at, active_connections = excluded.active_connections,
    total_connections = excluded.total_connections, bytes_sent = excluded.bytes_sent,
    bytes_received = excluded.bytes_received
where latest_proxy_metrics.at < excluded.at
"""),
    GpuSample: text("""
insert into latest_gpu_metrics (at, instance_id, measured_at, gpu_index, used_memory_bytes, total_memory_bytes,
                                utilization_percent)
select * from unnest(cast(:at as timestamptz[]), cast(:instance_id as uuid[]), cast(:measured_at as timestamptz[]),
                     cast(:gpu_index as smallint[]), cast(:used_memory_bytes as bigint[]),
                     cast(:total_memory_bytes as bigint[]), cast(:utilization_percent as double precision[]))
on conflict (instance_id, gpu_index) do update
set at = excluded.at, measured_at = excluded.measured_at, used_memory_bytes = excluded.used_memory_bytes,
    total_memory_bytes = excluded.total_memory_bytes, utilization_percent = excluded.utilization_percent
where latest_gpu_metrics.at < excluded.at
"""),
    LlmSample: text("""
insert into latest_llm_metrics (at, instance_id, measured_at, request_count, tokens_received, tokens_sent)
select * from unnest(cast(:at as timestamptz[]), cast(:instance_id as uuid[]), cast(:measured_at as timestamptz[]),
                     cast(:request_count as bigint[]), cast(:tokens_received as bigint[]),
                     cast(:tokens_sent as bigint[]))
on conflict (instance_id) do update
set at = excluded.at, measured_at = excluded.measured_at, request_count = excluded.request_count,
    tokens_received = excluded.tokens_received, tokens_sent = excluded.tokens_sent
where latest_llm_metrics.at < excluded.at
"""),
}


async def store(connection: AsyncConnection, samples: Sequence[Sample]) -> int:
    """Stores samples in their order of arrival, in one transaction; how many, those of the dead being left out."""
    async with transaction(connection):
        living = (await connection.execute(LIVING, {"ids": sorted({each.instance_id for each in samples})})).all()
        alive = {row.id for row in living}
        kept = [each for each in samples if each.instance_id in alive]
        if kept:
            last: dict[type[Any], dict[Any, Record]] = {kind: {} for kind in TABLE}
            # a microsecond apart, so that arrival orders the samples of one instance
            times = accumulate(repeat(MICROSECOND), initial=living[0].now - len(kept) * MICROSECOND)
            for start in range(0, len(kept), SLICE):
                for kind, records in _by_kind(kept[start : start + SLICE], times).items():
                    await _copy(connection, kind, records)
                    last[kind] |= {KEY[kind](each): each for each in records}
                await asyncio.sleep(0)
            for kind, latest in last.items():
                await _show(connection, kind, latest)
        return len(kept)


def _by_kind(samples: Sequence[Sample], times: Iterator[datetime]) -> Mapping[type[Any], Sequence[Record]]:
    records: dict[type[Any], list[Record]] = defaultdict(list)
    for each in samples:
        records[type(each)].append((next(times), *each))
    return records


async def _copy(connection: AsyncConnection, kind: type[Any], records: Sequence[Record]) -> None:
    columns = ("at", *kind._fields)
    await driver(connection).copy_records_to_table(TABLE[kind], columns=columns, records=records)


async def _show(connection: AsyncConnection, kind: type[Any], latest: Mapping[Any, Record]) -> None:
    """The last of each key alone, since one statement may not touch a row twice; in one order, so that no two managers
    wait for each other."""
    if latest:
        columns = zip(*(latest[each] for each in sorted(latest)), strict=True)
        await rows(connection, LATEST[kind], dict(zip(("at", *kind._fields), map(list, columns), strict=True)))


READ: dict[type[Any], TextClause] = {
    SystemSample: text("""
select instance_id, measured_at, used_memory_bytes, total_memory_bytes
from latest_system_metrics where instance_id = any(:ids)
"""),
    ProxySample: text("""
select instance_id, measured_at, active_connections, total_connections, bytes_sent, bytes_received
from latest_proxy_metrics where instance_id = any(:ids)
"""),
    GpuSample: text("""
select instance_id, measured_at, gpu_index, used_memory_bytes, total_memory_bytes, utilization_percent
from latest_gpu_metrics where instance_id = any(:ids) order by instance_id, gpu_index
"""),
    LlmSample: text("""
select instance_id, measured_at, request_count, tokens_received, tokens_sent
from latest_llm_metrics where instance_id = any(:ids)
"""),
}


async def latest(connection: AsyncConnection, ids: Sequence[InstanceId], kind: type[S]) -> dict[InstanceId, list[S]]:
    """The latest samples of that kind, by instance: one, or for an instance with several GPUs one of each, ordered."""
    found: dict[InstanceId, list[S]] = {}
    for row in await rows(connection, READ[kind], {"ids": ids}):
        found.setdefault(row.instance_id, []).append(kind(**row))
    return found


# What the dead left behind, so many at a time; nobody posts for them any more.
FORGET = """
delete from {table} where instance_id = any(array(
    select l.instance_id from {table} l join instance i on i.id = l.instance_id
    where i.died_revision is not null limit 10000))
"""


async def forget_dead(connection: AsyncConnection) -> int:
    """Removes the latest values of dead instances; how many."""
    counts = [
        (await connection.execute(text(FORGET.format(table=f"latest_{name}")))).rowcount for name in TABLE.values()
    ]
    return sum(counts)


PREPARE = text("select prepare_metrics(:days)")
DROP = text("select drop_old_metrics()")


async def prepare(connection: AsyncConnection, days_ahead: int) -> None:
    """Makes the partitions of the coming days."""
    await connection.execute(PREPARE, {"days": days_ahead})


async def drop_old(connection: AsyncConnection) -> list[str]:
    """Drops the partitions past the retention of the samples, the minutes and the hours; their names."""
    dropped: list[str] = []
    while name := (await connection.execute(DROP)).scalar():
        dropped.append(name)
    return dropped
