"""Rolling up: minutes and hours say exactly what their samples say, however often, late and interrupted it is done."""

import asyncio
import itertools
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manager.domain.instance import InstanceId
from manager.domain.metrics import GpuSample, LlmSample, ProxySample, SystemSample, Window
from manager.repository import rollup
from manager.repository.metrics import TABLE, drop_old, prepare
from manager.repository.metrics_history import look_back
from manager.repository.trim import Retention
from manager.upkeep import sweep
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
KINDS = sorted(TABLE, key=lambda kind: str(kind.__name__))
GROWING = {
    ProxySample: {
        "total_connections": "connections_grown",
        "bytes_sent": "sent_grown",
        "bytes_received": "received_grown",
    },
    LlmSample: {
        "request_count": "requests_grown",
        "tokens_received": "received_grown",
        "tokens_sent": "sent_grown",
    },
}
ADDED = {
    SystemSample: {"used_memory_bytes": "used_memory_sum"},
    ProxySample: {"active_connections": "active_sum"},
    GpuSample: {"used_memory_bytes": "used_memory_sum", "utilization_percent": "utilization_sum"},
    LlmSample: {},
}

# Every twenty seconds or so, over the last five hours: values up and down, totals that begin anew now and then.
FILL = {
    SystemSample: "1000 + (n * 7919) % 5000, 10000",
    ProxySample: "n % 13, 100 + n % 400, 100 + 3 * (n % 700), 100 + 5 * (n % 900)",
    GpuSample: "n % 2, 1000 + (n * 7907) % 5000, 10000, (n * 31) % 101",
    LlmSample: "100 + n % 300, 100 + 11 * (n % 500), 100 + 7 * (n % 450)",
}


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


async def posted(fleet: Fleet, *ids: InstanceId, hours: int = 5) -> None:
    """Samples of every kind by each of them, up to now."""
    for kind, values in FILL.items():
        await fleet.sql.execute(
            f"insert into {TABLE[kind]} select clock_timestamp() - (n * 20 + random() * 15) * interval '1 second',"
            f" i.id, now(), {values} from unnest($1::uuid[]) i(id) cross join generate_series(1, $2 * 180) n",
            list(ids),
            hours,
        )


async def rolled_up(fleet: Fleet) -> int:
    """All there is to roll up; in how many steps."""
    steps = 1
    async with fleet.connections.upkeep.use() as connection:
        while (await rollup.step(connection)).more:
            steps += 1
    return steps


async def told(fleet: Fleet, kind: type[Any], level: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of a level, by instance, index and time."""
    rows = await fleet.rows(f"select * from {TABLE[kind]}_{level}")
    return {(row["instance_id"], row.get("gpu_index", 0), row["at"]): dict(row) for row in rows}


async def counted(fleet: Fleet, kind: type[Any], unit: timedelta) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What the samples come to, counted one by one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    before: dict[InstanceId, Any] = {}
    until = await fleet.value("select done_until from metrics_rollup where name = $1", f"{TABLE[kind]}_{name(unit)}")
    for row in await fleet.rows(f"select * from {TABLE[kind]} where at < $1 order by at", until):
        start = row["at"] - (row["at"] - datetime(2000, 1, 1, tzinfo=UTC)) % unit
        key = (row["instance_id"], row.get("gpu_index", 0), start)
        into = found.setdefault(key, defaultdict(int, instance_id=row["instance_id"], at=start))
        if kind is GpuSample:
            into["gpu_index"] = row["gpu_index"]
        into["samples"] += 1
        into["last_at"] = row["at"]
        for field in rollup.HIGHEST[kind]:
            into[field] = max(into[field], row[field])
        for field, total in ADDED[kind].items():
            into[total] += row[field]
        for field, grown in GROWING.get(kind, {}).items():
            last = before.get(row["instance_id"], defaultdict(int))[field]
            into[grown] += row[field] - (last if last <= row[field] else 0)
        before[row["instance_id"]] = row
    return found


def name(unit: timedelta) -> str:
    return "minutes" if unit == MINUTE else "hours"


@pytest.mark.parametrize("kind", KINDS)
async def test_minutes_and_hours_are_exactly_what_their_samples_come_to(fleet: Fleet, kind: type[Any]) -> None:
    await posted(fleet, *[await fleet.add() for _ in range(3)])
    assert await rolled_up(fleet) > 10
    for unit in (MINUTE, HOUR):
        expected = await counted(fleet, kind, unit)
        assert len(expected) >= 3 * 4
        assert await told(fleet, kind, name(unit)) == expected


async def test_a_step_is_ten_minutes_of_samples_and_an_hour_of_minutes(fleet: Fleet) -> None:
    await posted(fleet, await fleet.add())
    begun = await fleet.value("select date_bin('1 day', min(at), '2000-01-01 00:00+00') from system_metrics")
    asked = "select done_until from metrics_rollup where name = 'system_metrics_{}'"
    async with fleet.connections.upkeep.use() as connection:
        places: list[tuple[Any, Any]] = [(begun, None)]
        more = True
        while more:
            more = (await rollup.step(connection)).more
            places.append((await fleet.value(asked.format("minutes")), await fleet.value(asked.format("hours"))))
    for before, after in itertools.pairwise(places):
        assert timedelta() <= after[0] - before[0] <= 10 * MINUTE
        assert None in (before[1], after[1]) or timedelta() <= after[1] - before[1] <= HOUR


async def test_rolling_up_again_from_wherever_it_was_interrupted_changes_nothing(fleet: Fleet) -> None:
    await posted(fleet, await fleet.add(), await fleet.add())
    for kind in KINDS:  # the minutes that end meanwhile are to be empty ones
        await fleet.sql.execute(f"delete from {TABLE[kind]} where at > clock_timestamp() - interval '3 minutes'")
    await rolled_up(fleet)
    before = [await told(fleet, kind, level) for kind in KINDS for level in ("minutes", "hours")]
    for back in (7, 61, 200):
        await fleet.sql.execute("update metrics_rollup set done_until = done_until - $1 * interval '1 minute'", back)
        await rolled_up(fleet)
        assert [await told(fleet, kind, level) for kind in KINDS for level in ("minutes", "hours")] == before


async def test_what_a_crash_took_back_is_taken_back_whole(fleet: Fleet) -> None:
    """Rows and place are of one statement."""
    await posted(fleet, await fleet.add())
    statement = str(rollup.INTO_MINUTES[SystemSample])
    async with fleet.sql.transaction() as _:
        await fleet.sql.execute("savepoint crash")
        while not await fleet.value("select count(*) from system_metrics_minutes"):
            await fleet.sql.execute(statement)
        assert await fleet.value("select count(*) from system_metrics_minutes")
        await fleet.sql.execute("rollback to crash")
        assert await fleet.value("select done_until from metrics_rollup where name = 'system_metrics_minutes'") is None
    await rolled_up(fleet)
    assert await told(fleet, SystemSample, "minutes") == await counted(fleet, SystemSample, MINUTE)


async def test_a_sample_that_is_stored_minutes_late_is_rolled_up_with_its_minute_and_hour(fleet: Fleet) -> None:
    one = await fleet.add()
    await posted(fleet, one)
    await rolled_up(fleet)
    # until the next round, in which another minute is over
    await fleet.sql.execute("update metrics_rollup set done_until = done_until - interval '1 minute'")
    late = "select done_until - interval '3 minutes 7 seconds' from metrics_rollup where name = 'llm_metrics_minutes'"
    for kind, values in FILL.items():
        await fleet.sql.execute(
            f"insert into {TABLE[kind]} select ({late}), $1, now(), {values} from generate_series(77, 77) n", one
        )
    await rolled_up(fleet)
    for kind in KINDS:
        assert await told(fleet, kind, "minutes") == await counted(fleet, kind, MINUTE)
        assert await told(fleet, kind, "hours") == await counted(fleet, kind, HOUR)


async def test_several_managers_roll_up_at_once_and_each_sample_counts_once(fleet: Fleet, database: Database) -> None:
    await posted(fleet, await fleet.add())
    async with fleet_of(database) as other:
        await asyncio.gather(rolled_up(fleet), rolled_up(other))
    await rolled_up(fleet)
    for kind in KINDS:
        assert await told(fleet, kind, "minutes") == await counted(fleet, kind, MINUTE)
        assert await told(fleet, kind, "hours") == await counted(fleet, kind, HOUR)


async def test_a_clock_that_was_set_back_loses_nothing(fleet: Fleet) -> None:
    await posted(fleet, await fleet.add())
    await rolled_up(fleet)
    await fleet.sql.execute("update metrics_rollup set done_until = done_until + interval '40 minutes'")
    await rolled_up(fleet)
    assert await told(fleet, SystemSample, "minutes") == await counted(fleet, SystemSample, MINUTE)


async def test_a_sum_may_be_more_than_a_number_of_a_message(fleet: Fleet) -> None:
    one = await fleet.add()
    most = 2**63 - 1
    for seconds in range(60, 180, 10):
        await fleet.sql.execute(
            "insert into llm_metrics values (now() - $1 * interval '1 second', $2, now(), $3, $3, $3)",
            seconds,
            one,
            most if seconds % 20 else 1,
        )
    await rolled_up(fleet)
    assert await fleet.value("select sum(sent_grown) from llm_metrics_minutes") > most
    window = Window(None, None, 60, subtree=True)
    async with fleet.connections.readers.use() as connection:
        past = await look_back(connection, LlmSample, one, window)
    assert past is not None
    assert past.points[-1].tokens_sent == most


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def old_partition(fleet: Fleet, parent: str, age: int, days: int) -> str:
    """A partition that ended so many days ago."""
    day: Any = await fleet.value("select (clock_timestamp() at time zone 'UTC')::date - $1::int", age + days)
    partition = f"{parent}_{day:%Y%m%d}"
    await fleet.sql.execute(f"""
        set role im_owner;
        create table {partition} partition of {parent}
            for values from ('{day} 00:00+00') to ('{day + days * DAY} 00:00+00');
        reset role""")
    return partition


async def test_each_level_has_a_retention_of_its_own(fleet: Fleet) -> None:
    gone, kept = [], []
    for parent, days, most in (("llm_metrics", 1, 5), ("llm_metrics_minutes", 7, 50), ("llm_metrics_hours", 28, 300)):
        gone.append(await old_partition(fleet, parent, most + 1, days))
        kept.append(await old_partition(fleet, parent, most - days - 1, days))
    retention = Retention(5 * DAY, 7 * DAY, 30 * DAY, minutes=50 * DAY, hours=300 * DAY)
    await fleet.retain(retention)
    async with fleet.connections.upkeep.use() as connection:
        assert sorted(await drop_old(connection)) == sorted(gone)
    assert all([await fleet.value("select to_regclass($1)", each) for each in kept])


async def test_samples_past_their_retention_are_rolled_up_before_they_go(fleet: Fleet) -> None:
    """As when no manager ran for weeks, or this release came to a database of the one before."""
    one = await fleet.add()
    partition = await old_partition(fleet, "system_metrics", 39, 1)
    at = await fleet.value("select (now() at time zone 'UTC')::date::timestamp at time zone 'UTC' - interval '40 days'")
    await fleet.sql.execute(
        "insert into system_metrics select cast($1 as timestamptz) + n * interval '30 seconds', $2, now(), n, 100"
        " from generate_series(1, 200) n",
        at,
        one,
    )
    await fleet.sql.execute("update metrics_rollup set done_until = null")
    await sweep(fleet.connections.upkeep, 2, Retention(30 * DAY, 7 * DAY, 30 * DAY))
    assert await fleet.value("select to_regclass($1)", partition) is None
    assert await fleet.value("select sum(samples) from system_metrics_minutes") == 200
    hours = await fleet.rows("select at, samples, used_memory_bytes from system_metrics_hours order by at")
    assert [tuple(row) for row in hours] == [(at, 119, 119), (at + HOUR, 81, 200)]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_samples_come_to_is_asked_of_a_while_and_not_of_all(fleet: Fleet, kind: type[Any]) -> None:
    for statement in (rollup.INTO_MINUTES[kind], rollup.INTO_HOURS[kind]):
        assert "Function Scan" not in await plan_of(fleet, str(statement))


async def test_a_step_finds_its_minutes_without_reading_the_day(fleet: Fleet) -> None:
    await fleet.sql.execute(
        "insert into system_metrics select clock_timestamp() - (200000 - n) * interval '0.1 seconds',"
        " cast(md5(cast(n % 1000 as text)) as uuid), now(), 1, 1 from generate_series(1, 200000) n"
    )
    await fleet.sql.execute("vacuum analyze system_metrics")
    plan = await plan_of(fleet, str(rollup.INTO_MINUTES[SystemSample]))
    assert re.search(r"Bitmap Index Scan on system_metrics_\d+_at_idx", plan), plan


async def plan_of(fleet: Fleet, statement: str) -> str:
    return "\n".join(row[0] for row in await fleet.rows(f"explain {statement}"))


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────────


async def answers(fleet: Fleet, kind: type[Any], of: InstanceId, *windows: Window) -> list[Any]:
    """What is told of each window."""
    async with fleet.connections.readers.use() as connection:
        return [await look_back(connection, kind, of, each) for each in windows]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subtree", [False, True])
async def test_every_window_is_answered_alike_from_samples_and_from_what_they_were_rolled_up_to(
    fleet: Fleet, kind: type[Any], subtree: bool
) -> None:
    root = await fleet.add()
    await posted(fleet, root, await fleet.add(root), await fleet.add(root))
    now = await fleet.value("select clock_timestamp()")
    windows = [
        Window(now - span, now - ago, points, subtree)
        for span in (5 * HOUR, 3 * HOUR, 50 * MINUTE)
        for ago in (timedelta(), 11 * MINUTE, 31 * MINUTE + timedelta(seconds=13))
        for points in (1, 2, 5, 30, 200, 1_000)
    ]
    before = await answers(fleet, kind, root, *windows)
    await rolled_up(fleet)
    assert await answers(fleet, kind, root, *windows) == before
    series = 2 if kind is GpuSample and not subtree else 1
    for past, window in zip(before, windows, strict=True):
        assert 0 < len(past.points) <= window.points * series


async def test_the_peaks_of_a_window_are_those_of_its_samples(fleet: Fleet) -> None:
    one = await fleet.add()
    await posted(fleet, one)
    await rolled_up(fleet)
    now = await fleet.value("select clock_timestamp()")
    for points in (1, 4, 50, 300):
        (past,) = await answers(fleet, SystemSample, one, Window(now - 5 * HOUR, now, points))
        highest = await fleet.value(
            "select max(used_memory_bytes) from system_metrics where at >= $1 and at < $2", past.since, past.until
        )
        assert max(each.used_memory_bytes for each in past.points) == highest
        assert now - 6 * HOUR < past.since <= now - 5 * HOUR
        assert past.until == now


async def test_what_is_past_the_retention_of_samples_is_answered_by_the_minute_and_then_by_the_hour(
    fleet: Fleet,
) -> None:
    one = await fleet.add()
    await posted(fleet, one)
    await rolled_up(fleet)
    await fleet.sql.execute("truncate system_metrics")
    now = await fleet.value("select clock_timestamp()")
    fine = Window(now - 4 * HOUR, now - 2 * HOUR, 2_000)
    (nothing,) = await answers(fleet, SystemSample, one, fine)
    assert not nothing.points
    await fleet.sql.execute("update control set metrics_kept = interval '1 day'")
    await fleet.sql.execute("alter table control drop constraint control_metrics_kept_range")
    await fleet.sql.execute("update control set metrics_kept = interval '1 hour'")
    (minutes,) = await answers(fleet, SystemSample, one, fine)
    assert 115 < len(minutes.points) <= 121
    await fleet.sql.execute("truncate system_metrics_minutes")
    await fleet.sql.execute("update control set minutes_kept = interval '1 hour'")
    (hours,) = await answers(fleet, SystemSample, one, fine)
    assert 2 <= len(hours.points) <= 3


# ── up the tree ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def measured(fleet: Fleet, table: str, at: datetime, of: InstanceId, *values: object) -> None:
    places = ", ".join(f"${number}" for number in range(1, len(values) + 4))
    await fleet.sql.execute(f"insert into {table} values ({places})", at, of, at, *values)


async def test_a_subtree_is_the_sum_of_all_that_were_ever_below(fleet: Fleet) -> None:
    root, middle, leaf = await fleet.chain(3)
    other = await fleet.add()
    at = await fleet.value("select date_bin('1 hour', now() - interval '3 hours', '2000-01-01 00:00+00')")
    for minutes, of, used in (
        (1, root, 100),
        (1, middle, 20),
        (1, leaf, 3),
        (2, root, 50),
        (2, leaf, 7),
        (1, other, 1),
    ):
        await measured(fleet, "system_metrics", at + minutes * MINUTE, of, used, 1_000)
    await measured(fleet, "system_metrics", at + MINUTE + timedelta(seconds=30), leaf, 5, 1_000)
    for minutes, of, tokens in ((1, root, 10), (61, root, 15), (2, leaf, 100), (62, leaf, 30), (63, leaf, 40)):
        await measured(fleet, "llm_metrics", at + minutes * MINUTE, of, 1, tokens, 2 * tokens)
    for index in (0, 1):
        await measured(fleet, "gpu_metrics", at + MINUTE, leaf, index, 40, 80, 50.0 * index)
    for of, active in ((middle, 3), (leaf, 4)):
        await measured(fleet, "proxy_metrics", at + MINUTE, of, active, 5, 6, 7)
    await fleet.kill(leaf)
    window = Window(at, at + 2 * HOUR, 2, subtree=True)
    finer = Window(at, at + 4 * MINUTE, 4, subtree=True)
    for _ in ("from samples", "rolled up"):
        (memory,) = await answers(fleet, SystemSample, root, window)
        # of the hour, the mean of each: 75 of the root, 20, and 5 of the leaf
        assert [(each.used_memory_bytes, each.total_memory_bytes) for each in memory.points] == [(100, 3_000)]
        (memory,) = await answers(fleet, SystemSample, root, finer)
        assert [(each.used_memory_bytes, each.measured_at) for each in memory.points] == [
            (124, at + 2 * MINUTE),
            (57, at + 3 * MINUTE),
        ]
        (tokens,) = await answers(fleet, LlmSample, root, window)
        assert [(each.tokens_received, each.tokens_sent) for each in tokens.points] == [(110, 220), (155, 310)]
        (gpus,) = await answers(fleet, GpuSample, root, window)
        assert [(each.gpu_index, each.used_memory_bytes, each.utilization_percent) for each in gpus.points] == [
            (0, 80, 25.0)
        ]
        (traffic,) = await answers(fleet, ProxySample, root, window)
        assert [(each.active_connections, each.bytes_sent) for each in traffic.points] == [(7, 12)]
        (alone,) = await answers(fleet, LlmSample, other, window)
        assert not alone.points
        hours = await fleet.rows(
            "select starts_at, instances, used_memory_bytes, gpus, active_connections, bytes_sent, tokens_sent"
            " from audit.subtree_usage_by($1, '1 hour', $2, $3)",
            root,
            at,
            at + 2 * HOUR,
        )
        assert [tuple(row) for row in hours] == [
            (at, 3, 100, 2, 7, 12, 220),
            (at + HOUR, 2, None, None, None, None, 90),
        ]
        await rolled_up(fleet)
    assert await fleet.value("select count(*) from audit.llm_hours where instance_id = $1", leaf) == 2


async def test_preparing_makes_room_for_all_samples_on_record(fleet: Fleet) -> None:
    partition = await old_partition(fleet, "gpu_metrics", 100, 1)
    async with fleet.connections.upkeep.use() as connection:
        await prepare(connection, 2)
    oldest = await fleet.value("""
        select min(to_date(right(c.relname, 8), 'YYYYMMDD')) from pg_inherits h join pg_class c on c.oid = h.inhrelid
        where h.inhparent = 'gpu_metrics_minutes'::regclass""")
    assert f"{oldest:%Y%m%d}" <= partition[-8:]
