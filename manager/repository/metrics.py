"""Samples: COPY into the history, and one row of latest values for each living instance."""

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from manager.domain.instance import InstanceId
from manager.domain.metrics import GpuSample, LlmSample, Post, Posted, ProxySample, SystemSample
from manager.repository.database import transaction
from manager.repository.driver import driver, rows

S = TypeVar("S", ProxySample, SystemSample, GpuSample, LlmSample)
V = TypeVar("V")

# in the order in which they are written, so that no two managers wait for each other
TABLE: dict[type[Any], str] = {
    ProxySample: "proxy_metrics",
    SystemSample: "system_metrics",
    GpuSample: "gpu_metrics",
    LlmSample: "llm_metrics",
}

# of a sample
KEY: dict[type[Any], Callable[[Posted], Any]] = {kind: itemgetter(0) for kind in TABLE} | {GpuSample: itemgetter(0, 2)}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)  # of PostgreSQL's times, which count microseconds
MICROSECOND = timedelta(microseconds=1)
UNTIL_ORIGIN = (ORIGIN - EPOCH) // MICROSECOND
Series = list[tuple[bytes, list[int]]]
SLICE = 2_500  # samples that are written in one go, while nobody else is served

# A row in the binary form of COPY: how many columns, and the length of each before it. One `pack` makes it in a fifth
# of the time that asyncpg's encoders take.
VALUES = {SystemSample: "qq", ProxySample: "qqqq", GpuSample: "hqqd", LlmSample: "qqq"}
COLUMNS: dict[type[Any], Sequence[str]] = {kind: ("q", "16s", "q", *values) for kind, values in VALUES.items()}
ROW = {kind: struct.Struct("!h" + "".join(f"i{each}" for each in columns)) for kind, columns in COLUMNS.items()}
FIRST, LAST = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"

DEAD = text("""
select clock_timestamp() as now, array(
    select u.id from unnest(cast(cast(:ids as text) as uuid[])) u(id)
    left join lateral (select true as lives from instance where id = u.id and died_revision is null offset 0) i on true
    where i.lives is null
) as ids
""")

# Arrays come as text: asyncpg takes five times as long to encode one of numbers as to write it out
UPSERT = """
insert into latest_{table} (at, instance_id, measured_at, {names})
select cast(:begun as timestamptz) + place * interval '1 microsecond', instance_id,
       timestamptz '1970-01-01 00:00+00' + milliseconds / 86400000 * interval '1 day'
           + milliseconds % 86400000 * interval '1 millisecond',
       {names}
from unnest(cast(cast(:place as text) as bigint[]), cast(cast(:instance_id as text) as uuid[]),
            cast(cast(:milliseconds as text) as bigint[]), {arrays}
) as given(place, instance_id, milliseconds, {names})
on conflict ({key}) do update
set at = excluded.at, measured_at = excluded.measured_at, {news}
where latest_{table}.at < excluded.at
"""
TYPES = {"h": "smallint", "q": "bigint", "d": "double precision"}  # by the letters of VALUES


def _upsert(kind: type[Any]) -> TextClause:
    names = kind._fields[2:]
    key = ("instance_id", "gpu_index") if kind is GpuSample else ("instance_id",)
    types = [TYPES[each] for each in VALUES[kind]]
    return text(
        UPSERT.format(
            table=TABLE[kind],
            names=", ".join(names),
            arrays=", ".join(f"cast(cast(:{name} as text) as {of}[])" for name, of in zip(names, types, strict=True)),
            key=", ".join(key),
            news=", ".join(f"{each} = excluded.{each}" for each in names if each not in key),
        )
    )


LATEST = {kind: _upsert(kind) for kind in TABLE}


@dataclass(frozen=True, slots=True)
class _Pile:
    """The samples of one kind in their order of arrival, and which of them are of each key."""

    kind: type[Any]
    samples: list[Posted] = field(default_factory=list)
    places: dict[Any, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, samples: Sequence[Posted]) -> None:
        for place, key in enumerate(map(KEY[self.kind], samples), len(self.samples)):
            self.places[key].append(place)
        self.samples.extend(samples)

    async def series(self) -> Series:
        """By the id of each instance the places of its samples, key by key."""
        keys = sorted(self.places)
        await asyncio.sleep(0)
        return [(self.samples[places[0]][0], places) for places in map(self.places.__getitem__, keys)]


async def store(connection: AsyncConnection, posts: Sequence[Post]) -> int:
    """Stores samples in their order of arrival, in one transaction; how many, those of the dead being left out."""
    piles = await _piled(posts)
    series = {kind: await pile.series() for kind, pile in piles.items() if pile.samples}
    await asyncio.sleep(0)
    ids = sorted(dict.fromkeys(each for given in series.values() for each, _ in given))
    async with transaction(connection):
        now, dead = await _dead(connection, ids)
        stored = 0
        for kind, given in series.items():
            if living := [places for each, places in given if each not in dead]:
                # a microsecond apart, so that they are in their order whatever the order in which they are written
                begun = now - len(piles[kind].samples) * MICROSECOND
                await _copy(connection, piles[kind], living, begun)
                await _show(connection, piles[kind], living, begun)
                stored += sum(map(len, living))
        return stored


async def _piled(posts: Sequence[Post]) -> dict[type[Any], _Pile]:
    piles = {kind: _Pile(kind) for kind in TABLE}
    done = 0
    for post in posts:
        piles[post.kind].add(post.samples)
        done += len(post.samples)
        if done >= SLICE:
            await asyncio.sleep(0)
            done = 0
    return piles


async def _dead(connection: AsyncConnection, ids: Sequence[bytes]) -> tuple[datetime, set[bytes]]:
    """What the time is, and which are not alive."""
    now, dead = EPOCH, set[bytes]()
    for some in _slices(ids):
        (answer,) = await rows(connection, DEAD, {"ids": _of_ids(some)})
        now = answer.now
        dead.update(each.bytes for each in answer.ids)
    return now, dead


async def _copy(connection: AsyncConnection, pile: _Pile, living: Sequence[list[int]], begun: datetime) -> None:
    """Series by series, since so they are beside each other in the index, which is written in two thirds of the time,
    and in the table."""

    async def binary() -> AsyncIterator[bytes]:
        first = (begun - ORIGIN) // MICROSECOND
        yield FIRST
        for some in _slices(list(chain.from_iterable(living))):
            yield _packed(pile.kind, [first + each for each in some], [pile.samples[each] for each in some])
            await asyncio.sleep(0)
        yield LAST

    columns = ("at", *pile.kind._fields)
    await driver(connection).copy_to_table(TABLE[pile.kind], columns=columns, format="binary", source=binary())


def _packed(kind: type[Any], times: Sequence[int], samples: Sequence[Posted]) -> bytes:
    ids, measured, *values = zip(*samples, strict=True)
    columns = (times, ids, [each * 1000 - UNTIL_ORIGIN for each in measured], *values)
    widths = (repeat(struct.calcsize(each)) for each in COLUMNS[kind])
    fields = chain.from_iterable(zip(widths, columns, strict=True))
    return b"".join(map(ROW[kind].pack, repeat(len(columns)), *fields))


async def _show(connection: AsyncConnection, pile: _Pile, living: Sequence[list[int]], begun: datetime) -> None:
    """The last of each key alone, since one statement may not touch a row twice; in one order, so that no two managers
    wait for each other."""
    for some in _slices([places[-1] for places in living]):
        ids, milliseconds, *values = zip(*(pile.samples[each] for each in some), strict=True)
        given = dict(zip(pile.kind._fields[2:], map(_array, values), strict=True))
        given |= {"place": _array(some), "instance_id": _of_ids(ids), "milliseconds": _array(milliseconds)}
        await rows(connection, LATEST[pile.kind], {"begun": begun, **given})


def _array(values: Sequence[float]) -> str:
    return "{" + ",".join(map(repr, values)) + "}"


def _of_ids(ids: Sequence[bytes]) -> str:
    return "{" + ",".join(map(bytes.hex, ids)) + "}"


def _slices(of: Sequence[V]) -> Iterator[Sequence[V]]:
    return (of[start : start + SLICE] for start in range(0, len(of), SLICE))


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
