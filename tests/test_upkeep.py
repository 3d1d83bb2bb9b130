"""Upkeep: partitions are there before they are needed and gone when they are not, and nobody waits for it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest

from manager.domain.metrics import HostStats, SystemSample
from manager.repository.database import sqlstate
from manager.repository.host_stats import upload
from manager.repository.metrics import drop_old, store
from manager.repository.metrics import prepare as make_ahead
from manager.repository.trim import Retention
from manager.upkeep import keep_up, sweep
from tests.conftest import Database
from tests.fleet import Fleet, S, fleet_of, posted

DAY = timedelta(days=1)
KEPT = Retention(metrics=30 * DAY, history=7 * DAY, tombstones=30 * DAY)
NAMES = ["gpu_metrics", "llm_metrics", "proxy_metrics", "system_metrics"]
PARTITIONS = """
    select p.relname as parent, c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bounds
    from pg_inherits h join pg_class c on c.oid = h.inhrelid join pg_class p on p.oid = h.inhparent
    where c.relkind = 'r' and p.relname !~ '_(minutes|hours)$' order by 1, 2"""
# what the database's clock said when the template was made may be a day earlier at midnight
EMPTY = """
    do $$ declare name regclass; begin
        for name in select inhrelid::regclass from pg_inherits h join pg_class c on c.oid = h.inhrelid
                    where c.relkind = 'r' loop
            execute 'drop table ' || name;
        end loop; end $$"""


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


@pytest.fixture
async def other(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


async def prepare(fleet: Fleet, ahead: int = 7, retention: timedelta = 30 * DAY) -> list[str]:
    await fleet.sql.execute("update control set metrics_kept = $1", retention)
    async with fleet.connections.upkeep.use() as connection:
        await make_ahead(connection, ahead)
        return await drop_old(connection)


async def days(fleet: Fleet, parent: str) -> list[date]:
    """The days for which a table has partitions."""
    found = [row["name"][-8:] for row in await fleet.rows(PARTITIONS) if row["parent"] == parent]
    return [datetime.strptime(each, "%Y%m%d").replace(tzinfo=UTC).date() for each in found]


async def old_partition(fleet: Fleet, name: str, age: int) -> str:
    """A partition of a day so long ago, as it was made then."""
    day: date = await fleet.value("select (clock_timestamp() at time zone 'UTC')::date - $1::int", age)
    partition = f"{name}_{day:%Y%m%d}"
    await fleet.sql.execute(f"""
        set role im_owner;
        create table {partition} partition of {name} for values from ('{day} 00:00+00') to ('{day + DAY} 00:00+00');
        reset role""")
    return partition


async def test_partitions_are_there_from_yesterday_to_7_days_ahead_one_a_utc_day(fleet: Fleet) -> None:
    await fleet.sql.execute(EMPTY)
    await prepare(fleet, 7)
    today: date = await fleet.value("select (clock_timestamp() at time zone 'UTC')::date")
    for name in NAMES:
        assert await days(fleet, name) == [today + each * DAY for each in range(-1, 8)]
    bounds = {row["name"]: row["bounds"] for row in await fleet.rows(PARTITIONS)}
    await fleet.sql.execute("set timezone = 'UTC'")
    row = next(row for row in await fleet.rows(PARTITIONS) if row["name"] == f"gpu_metrics_{today:%Y%m%d}")
    assert row["bounds"] == f"FOR VALUES FROM ('{today} 00:00:00+00') TO ('{today + DAY} 00:00:00+00')"
    await prepare(fleet, 7)
    assert len(await fleet.rows(PARTITIONS)) == len(bounds) == 36


async def test_a_partition_has_its_parents_index(fleet: Fleet) -> None:
    rows = await fleet.rows("""
        select count(*) from pg_inherits h join pg_class c on c.oid = h.inhrelid join pg_index i on i.indexrelid = c.oid
        join pg_inherits t on t.inhrelid = i.indrelid join pg_class p on p.oid = t.inhparent
        where p.relname !~ '_(minutes|hours)$'""")
    # of whose samples they are, and of when
    assert rows[0][0] == 2 * len(await fleet.rows(PARTITIONS))


async def test_making_partitions_waits_for_no_reader_and_no_writer(fleet: Fleet) -> None:
    await fleet.sql.execute(EMPTY)
    await prepare(fleet, 2)
    one = await fleet.add()
    async with fleet.sql.transaction():
        await fleet.sql.fetch("select * from system_metrics")
        await fleet.sql.execute(
            "insert into system_metrics values (clock_timestamp(), $1, clock_timestamp(), 1, 1)", one
        )
        held = await fleet.rows(
            "select mode from pg_locks where relation = 'system_metrics'::regclass and pid = pg_backend_pid()"
        )
        assert {row["mode"] for row in held} == {"AccessShareLock", "RowExclusiveLock"}
        await asyncio.wait_for(prepare(fleet, 7), timeout=2)
    assert len(await days(fleet, "system_metrics")) == 9


async def test_while_partitions_are_made_others_read_and_write(fleet: Fleet, database: Database) -> None:
    await fleet.sql.execute(EMPTY)
    await prepare(fleet, 2)
    one = await fleet.add()
    maker = await asyncpg.connect(database.admin)
    async with maker.transaction():
        assert await maker.fetchval("select prepare_metrics(7)") >= 20
        held = await maker.fetch(
            "select mode from pg_locks where relation = 'system_metrics'::regclass and pid = pg_backend_pid()"
        )
        assert "AccessExclusiveLock" not in {row["mode"] for row in held}
        async with asyncio.timeout(2), fleet.connections.samples.use() as connection:
            assert await store(connection, [posted(SystemSample(one, datetime.now(UTC), 1, 1))]) == 1
        assert len(await fleet.rows("select * from system_metrics")) == 1
    await maker.close()


async def test_partitions_past_the_retention_are_dropped_and_no_others(fleet: Fleet) -> None:
    gone = [await old_partition(fleet, name, age) for name in NAMES for age in (33, 45)]
    kept = [await old_partition(fleet, name, age) for name in NAMES for age in (28,)]
    assert sorted(await prepare(fleet)) == sorted(gone)
    left = {row["name"] for row in await fleet.rows(PARTITIONS)}
    assert left >= set(kept)
    assert not left & set(gone)
    assert sorted(await prepare(fleet, retention=20 * DAY)) == sorted(kept)


async def test_a_partition_that_is_read_is_dropped_another_time_and_blocks_nobody(fleet: Fleet) -> None:
    one = await fleet.add()
    partition = await old_partition(fleet, "system_metrics", 40)
    async with fleet.sql.transaction():
        await fleet.sql.fetch("select * from system_metrics")
        begun = asyncio.get_running_loop().time()
        with pytest.raises(Exception, match="lock timeout") as refused:
            await prepare(fleet)
        assert sqlstate(refused.value) == "55P03"
        assert asyncio.get_running_loop().time() - begun < 2
        async with asyncio.timeout(2), fleet.connections.samples.use() as connection:
            await store(connection, [posted(SystemSample(one, datetime.now(UTC), 1, 1))])
    assert await prepare(fleet) == [partition]


async def test_two_managers_at_once_make_and_drop_each_partition_once(fleet: Fleet, other: Fleet) -> None:
    await fleet.sql.execute(EMPTY)
    await asyncio.gather(prepare(fleet), prepare(other))
    await asyncio.gather(prepare(fleet), prepare(other))
    old = [await old_partition(fleet, name, age) for name in NAMES for age in range(33, 36)]
    one, two = await asyncio.gather(prepare(fleet), prepare(other))
    dropped = [*one, *two, *await prepare(fleet)]
    assert sorted(dropped) == sorted(old)
    assert len(await fleet.rows(PARTITIONS)) == 36


async def test_samples_are_never_without_a_partition(fleet: Fleet) -> None:
    one = await fleet.add()
    async with fleet.connections.samples.use() as connection:
        assert await store(connection, [posted(SystemSample(one, datetime.now(UTC), 1, 1))]) == 1
    assert await fleet.value("select tableoid::regclass::text from system_metrics") == (
        f"system_metrics_{await fleet.value('select clock_timestamp()'):%Y%m%d}"
    )


async def test_a_sweep_mends_heartbeats_and_forgets_silent_hosts(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.sql.execute("delete from heartbeat")
    async with fleet.connections.readers.use() as connection:
        for hostname in ("silent", "loud"):
            await upload(connection, HostStats(hostname, datetime.now(UTC), 1, 2))
    await fleet.sql.execute("update host_stats set at = at - interval '31 days' where hostname = 'silent'")
    await sweep(fleet.connections.upkeep, 7, KEPT)
    assert [row[0] for row in await fleet.rows("select hostname from host_stats")] == ["loud"]
    assert [row[0] for row in await fleet.rows("select instance_id from heartbeat")] == [one]


async def test_upkeep_goes_on_after_a_failure(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.upkeep.RETRY", 0.01)
    partition = await old_partition(fleet, "system_metrics", 40)
    async with fleet.sql.transaction():
        await fleet.sql.fetch("select * from system_metrics")
        keeping = asyncio.create_task(keep_up(fleet.connections.upkeep, 7, KEPT, 3600 * S))
        await asyncio.sleep(0.3)  # longer than it waits for the lock
    async with asyncio.timeout(5):
        while await fleet.value("select to_regclass($1)", partition):
            await asyncio.sleep(0.01)
    keeping.cancel()
