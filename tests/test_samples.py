"""Samples: a bounded buffer that never waits, stored within a second, in the order of arrival."""

import asyncio
import logging
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from manager.domain.instance import InstanceId
from manager.domain.metrics import GpuSample, LlmSample, Post, Posted, ProxySample, Sample, SystemSample
from manager.presence import new_id
from manager.repository.metrics import forget_dead, latest, store
from manager.samples import Samples
from tests.conftest import Database
from tests.fleet import Fleet, S, fleet_of, posted

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
SYSTEM = "select used_memory_bytes from system_metrics order by at"


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


def system(of: InstanceId, used: int, at: datetime = AT) -> SystemSample:
    return SystemSample(of, at, used, 1 << 40)


@asynccontextmanager
async def flushing(fleet: Fleet, *, buffer: int = 1_000) -> AsyncIterator[Samples]:
    """A buffer that is flushed every 10 ms, and once more when left."""
    samples = Samples(fleet.connections.samples, buffer=buffer, interval=S / 100)
    async with asyncio.TaskGroup() as group:
        group.create_task(samples.serve())
        yield samples
        samples.close()


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await reached():
            await asyncio.sleep(0.01)


async def test_each_kind_is_stored_and_its_latest_read(fleet: Fleet) -> None:
    one = await fleet.add()
    sent: list[Sample] = [
        system(one, 1),
        ProxySample(one, AT, 1, 2, 3, 1 << 62),
        GpuSample(one, AT, 1, 10, 80, 99.5),
        GpuSample(one, AT, 0, 20, 80, 0.0),
        LlmSample(one, AT, 1, 2, 3),
    ]
    async with flushing(fleet) as samples:
        for each in sent:
            samples.post(posted(each))
    async with fleet.connections.readers.use() as connection:
        assert await latest(connection, [one], SystemSample) == {one: [sent[0]]}
        assert await latest(connection, [one], ProxySample) == {one: [sent[1]]}
        assert await latest(connection, [one], GpuSample) == {one: [sent[3], sent[2]]}
        assert await latest(connection, [one], LlmSample) == {one: [sent[4]]}
        assert await latest(connection, [new_id()], LlmSample) == {}
    for table in ("system_metrics", "proxy_metrics", "llm_metrics"):
        assert await fleet.value(f"select count(*) from {table}") == 1
    assert await fleet.value("select count(*) from gpu_metrics") == 2


async def test_arrival_orders_them_whatever_the_client_measured(fleet: Fleet) -> None:
    one, two = await fleet.add(), await fleet.add()
    async with flushing(fleet) as samples:
        for number in range(500):
            samples.post(posted(system(one, number, AT - timedelta(days=number))))
            samples.post(posted(system(two, number)))
    rows = await fleet.rows("select used_memory_bytes, at from system_metrics where instance_id = $1 order by at", one)
    assert [row["used_memory_bytes"] for row in rows] == list(range(500))
    assert len({row["at"] for row in rows}) == 500
    async with fleet.connections.readers.use() as connection:
        assert [each.used_memory_bytes for each in (await latest(connection, [one], SystemSample))[one]] == [499]


async def test_an_earlier_arrival_does_not_replace_the_latest(fleet: Fleet) -> None:
    """Of two managers, the one that stored later may hold the older sample."""
    one = await fleet.add()
    async with fleet.connections.samples.use() as connection:
        await store(connection, [posted(system(one, 1))])
        await fleet.sql.execute("update latest_system_metrics set at = at + interval '1 minute'")
        await store(connection, [posted(system(one, 2))])
        assert await latest(connection, [one], SystemSample) == {one: [system(one, 1)]}
        await connection.rollback()
    assert await fleet.value("select count(*) from system_metrics") == 2


async def test_a_full_buffer_drops_the_oldest_and_counts_them(fleet: Fleet) -> None:
    one = await fleet.add()
    samples = Samples(fleet.connections.samples, buffer=10, interval=S / 100)
    for number in range(25):
        samples.post(posted(system(one, number)))
    assert samples.dropped == 15
    samples.close()
    await samples.serve()
    assert [row[0] for row in await fleet.rows(SYSTEM)] == list(range(15, 25))


async def test_of_a_batch_too_the_oldest_are_dropped(fleet: Fleet) -> None:
    one = await fleet.add()
    samples = Samples(fleet.connections.samples, buffer=10, interval=S / 100)
    for start in (0, 8, 16):
        batch: list[Posted] = [(one.bytes, 0, start + place, 0) for place in range(8)]
        samples.post(Post(SystemSample, batch))
    assert (samples.dropped, samples.waiting) == (14, 10)
    samples.close()
    await samples.serve()
    assert [row[0] for row in await fleet.rows(SYSTEM)] == list(range(14, 24))
    assert samples.waiting == 0


async def test_batches_of_nothing_are_not_kept(fleet: Fleet) -> None:
    samples = Samples(fleet.connections.samples, buffer=10, interval=S)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10_000):
            samples.post(Post(SystemSample, []))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


async def test_samples_of_the_dead_and_unknown_are_dropped_and_counted(fleet: Fleet) -> None:
    alive, dead = await fleet.add(), await fleet.add()
    await fleet.kill(dead)
    async with flushing(fleet) as samples:
        for each in (alive, dead, new_id(), dead):
            samples.post(posted(system(each, 1)))
    assert (samples.orphaned, samples.dropped) == (3, 0)
    assert await fleet.value("select count(*) from system_metrics") == 1


async def test_an_outage_of_the_database_loses_and_doubles_nothing(
    fleet: Fleet, database: Database, cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    one = await fleet.add()
    outside = await asyncpg.connect(cluster)
    async with flushing(fleet) as samples:
        samples.post(posted(system(one, 0)))

        async def stored() -> bool:
            return bool(await fleet.value("select count(*) from system_metrics"))

        await until(stored)
        await outside.execute(f'alter database "{database.name}" allow_connections false')
        await outside.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'instance-manager samples' and datname = $1",
            database.name,
        )
        for number in range(1, 200):
            samples.post(posted(system(one, number)))
            if number % 20 == 0:
                await asyncio.sleep(0.01)
        await outside.execute(f'alter database "{database.name}" allow_connections true')
    await outside.close()
    assert [row[0] for row in await fleet.rows(SYSTEM)] == list(range(200))
    assert samples.dropped == 0


async def test_what_does_not_fit_back_after_a_failed_flush_is_the_oldest(
    fleet: Fleet, database: Database, cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    one = await fleet.add()
    samples = Samples(fleet.connections.samples, buffer=10, interval=S / 100)
    for number in range(10):
        samples.post(posted(system(one, number)))
    async with fleet.sql.transaction():
        # a flush that waits for this lock fails, while others arrive
        await fleet.sql.execute("lock table system_metrics in access exclusive mode")
        async with fleet.connections.samples.use() as connection:
            await connection.exec_driver_sql("set lock_timeout = '100ms'")
            await connection.commit()
        samples.close()
        flush = asyncio.create_task(samples.serve())
        await asyncio.sleep(0.02)
        for number in range(10, 14):
            samples.post(posted(system(one, number)))
        await flush
    assert samples.dropped == 4
    await samples.serve()
    assert [row[0] for row in await fleet.rows(SYSTEM)] == list(range(4, 14))


async def test_a_sample_that_cannot_be_stored_is_dropped_and_does_not_block_the_next(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    one = await fleet.add()
    async with flushing(fleet) as samples:
        # no client can send it: decode refuses what does not fit a bigint
        samples.post(posted(system(one, 1 << 70)))

        async def dropped() -> bool:
            return samples.dropped == 1

        await until(dropped)
        samples.post(posted(system(one, 2)))
    assert [row[0] for row in await fleet.rows(SYSTEM)] == [2]


async def test_the_latest_values_of_the_dead_are_forgotten(fleet: Fleet) -> None:
    alive, dead = await fleet.add(), await fleet.add()
    async with flushing(fleet) as samples:
        for each in (alive, dead):
            samples.post(posted(system(each, 1)))
            samples.post(posted(GpuSample(each, AT, 0, 1, 1, 1.0)))
    await fleet.kill(dead)
    async with fleet.connections.upkeep.use() as connection:
        assert await forget_dead(connection) == 2
    for table in ("latest_system_metrics", "latest_gpu_metrics"):
        assert [row[0] for row in await fleet.rows(f"select instance_id from {table}")] == [alive]
