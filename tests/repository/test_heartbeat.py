"""Heartbeats: what a health check is told is the truth, and what it writes is no more than it must."""

import asyncio
import random
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from manager.domain.calls import Checked, Kill, Outcome, Reason
from manager.domain.instance import InstanceId
from manager.presence import new_id
from manager.repository.heartbeat import Heartbeats, Moment, checks, mend
from tests.conftest import Database
from tests.fleet import Fleet, S

DONE, DEAD, UNKNOWN = Checked(pause=10 * S), Outcome.refused(Reason.DEAD), Outcome.refused(Reason.UNKNOWN_INSTANCE)
SEEN = "select last_seen from heartbeat where instance_id = $1"
# of those that nobody writes at this moment, so that it waits for nobody, nor anybody for it
AGE = """
update heartbeat set last_seen = clock_timestamp() - interval '20 s'
where instance_id in (select instance_id from heartbeat for update skip locked)
"""
SILENT = "select clock_timestamp() - last_seen from heartbeat where instance_id = $1"


async def version(fleet: Fleet, of: InstanceId) -> tuple[Any, ...]:
    """Where and by whom a heartbeat was written last."""
    (row,) = await fleet.rows("select ctid, xmin, xmax, last_seen from heartbeat where instance_id = $1", of)
    return tuple(row)


async def test_the_living_keep_running_the_dead_and_unknown_terminate(fleet: Fleet) -> None:
    alive, dead = await fleet.add(), await fleet.add()
    await fleet.kill(dead)
    assert await fleet.check(alive, dead, new_id(), alive) == [DONE, DEAD, UNKNOWN, DONE]


async def test_a_check_is_written_when_the_stored_time_is_a_tenth_of_the_timeout_old(fleet: Fleet) -> None:
    one = await fleet.add(timeout=100 * S)
    await fleet.silence(10, one)
    await fleet.check(one)
    assert await fleet.value(SILENT, one) < 5 * S


async def test_a_check_is_not_written_when_the_stored_time_is_younger(fleet: Fleet) -> None:
    one = await fleet.add(timeout=100 * S)
    await fleet.silence(5, one)
    before = await version(fleet, one)
    assert await fleet.check(one) == [Checked(pause=100 * S / 3)]
    assert await version(fleet, one) == before


async def test_a_time_in_the_future_is_written_anew(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(-3600, one)
    assert await fleet.check(one) == [DONE]
    assert timedelta(0) <= await fleet.value(SILENT, one) < 5 * S


async def test_a_missing_row_is_healed(fleet: Fleet) -> None:
    one, gone = await fleet.add(timeout=45 * S), await fleet.add()
    await fleet.kill(gone)
    await fleet.sql.execute("delete from heartbeat")
    assert await fleet.check(one, gone) == [Checked(pause=15 * S), DEAD]
    rows = await fleet.rows("select instance_id, timeout, told_stale from heartbeat")
    assert [tuple(row) for row in rows] == [(one, 45 * S, False)]


async def test_a_check_does_not_write_the_stale_mark(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(35, one)
    await fleet.tick()
    await fleet.check(one)
    assert await fleet.value("select told_stale from heartbeat where instance_id = $1", one)
    assert await fleet.told("RECOVERED") == []
    await fleet.tick()
    assert await fleet.told("RECOVERED") == [one]


async def test_a_row_that_somebody_holds_is_asked_again_and_answered_when_it_is_free(
    fleet: Fleet, database: Database
) -> None:
    held, free = await fleet.add(), await fleet.add()
    await fleet.silence(20)
    holder = await asyncpg.connect(database.admin)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("select from heartbeat where instance_id = $1 for update", held)
    waiting = asyncio.create_task(fleet.check(held))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    await transaction.commit()
    assert await waiting == [DONE]
    assert await fleet.value(SILENT, held) < 5 * S
    assert await fleet.check(free) == [DONE]
    await holder.close()


async def test_a_row_that_somebody_holds_holds_up_nobody_else(fleet: Fleet) -> None:
    held, free, later = await fleet.add(), await fleet.add(), await fleet.add()
    await fleet.silence(20)
    async with fleet.sql.transaction():
        await fleet.sql.execute("select from heartbeat where instance_id = $1 for update", held)
        waiting, together = asyncio.create_task(fleet.check(held)), asyncio.create_task(fleet.check(free))
        assert await asyncio.wait_for(together, timeout=1) == [DONE]
        assert await asyncio.wait_for(fleet.check(later), timeout=1) == [DONE]
        assert not waiting.done()
    assert await waiting == [DONE]


async def test_a_row_that_is_held_by_its_killer_is_answered_dead(fleet: Fleet, other: Fleet) -> None:
    parent, child = await fleet.chain(2)
    await fleet.silence(20)
    async with fleet.sql.transaction():
        await fleet.sql.execute("select from heartbeat where instance_id = $1 for update", child)
        kill = asyncio.create_task(other.kill(parent))
        waiting = asyncio.create_task(fleet.check(child))
        done, _ = await asyncio.wait([kill, waiting], timeout=0.1)
        assert not done
    assert (await kill).reason is None
    # it may have come in before the kill, which was not answered then; not after
    assert (await waiting)[0] in (DONE, DEAD)
    assert await fleet.check(child) == [DEAD]


async def test_a_row_that_is_never_free_is_answered_unavailable_and_not_false(fleet: Fleet) -> None:
    one = await fleet.add()
    await fleet.silence(20)
    async with fleet.sql.transaction():
        await fleet.sql.execute("select from heartbeat for update")
        (answer,) = await asyncio.gather(fleet.checks.submit(one), return_exceptions=True)
    assert type(answer).__name__ == "Unavailable"


async def test_a_kill_that_was_answered_is_seen_by_every_later_check_on_any_manager(fleet: Fleet, other: Fleet) -> None:
    roots = [(await fleet.chain(3)) for _ in range(30)]
    answered: set[InstanceId] = set()
    ids = [each for chain in roots for each in chain]

    async def killing() -> None:
        for chain in roots:
            await other.do(Kill(chain[0]))
            answered.update(chain)

    async def checking(by: Fleet) -> None:
        while len(answered) < len(ids):
            asked = random.sample(ids, 20)
            doomed = answered & set(asked)
            told = dict(zip(asked, await by.check(*asked), strict=True))
            assert {told[each] for each in doomed} <= {DEAD}
            await by.sql.execute(AGE)

    await asyncio.gather(killing(), checking(fleet), checking(other))
    assert set(await fleet.check(*ids)) == {DEAD}


async def test_batches_in_any_order_on_two_managers_do_not_lock_each_other_out(fleet: Fleet, other: Fleet) -> None:
    ids = await fleet.chain(300)
    for _ in range(10):
        await fleet.silence(20)
        one, two = random.sample(ids, len(ids)), random.sample(ids, len(ids))
        answers = await asyncio.gather(fleet.check(*one), other.check(*two), fleet.kill(new_id()))
        assert {*answers[0], *answers[1]} == {DONE}
    assert await fleet.value("select deadlocks from pg_stat_database where datname = current_database()") == 0


async def test_a_recorded_time_is_stored_and_none_is_recorded_that_is_not(fleet: Fleet) -> None:
    written, fresh, missing = await fleet.add(), await fleet.add(), await fleet.add()
    await fleet.silence(20, written)
    await fleet.sql.execute("delete from heartbeat where instance_id = $1", missing)
    now: datetime = await fleet.value("select clock_timestamp()")
    moment = Moment(now, 1.5)
    heartbeats = Heartbeats(fleet.connections.checks)
    assert await heartbeats.record([written, fresh, missing], moment) == {missing}
    assert await fleet.value(SEEN, written) == now
    assert await fleet.value("select stretch from heartbeat where instance_id = $1", written) == 1.5
    assert await fleet.value(SEEN, missing) == now, "healed, and recorded when it is asked again"
    assert await heartbeats.record([written, fresh, missing], moment) == set()
    assert await heartbeats.record([], moment) == set()


async def test_all_updates_of_heartbeats_stay_on_their_page(fleet: Fleet) -> None:
    ids = await fleet.chain(200)
    await fleet.sql.execute("vacuum heartbeat")
    for _ in range(5):
        await fleet.silence(20)
        await fleet.check(*ids)
    await fleet.sql.execute("select pg_stat_force_next_flush()")
    (row,) = await fleet.rows("select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'heartbeat'")
    assert row["n_tup_upd"] - row["n_tup_hot_upd"] <= row["n_tup_upd"] / 20


async def test_get_health_check_tells_when_the_deadline_is(fleet: Fleet) -> None:
    one = await fleet.add(timeout=100 * S)
    async with fleet.connections.readers.use() as connection:
        found = (await checks(connection, [one])).get(one)
        assert found is not None
        assert found.healthy
        assert found.deadline == found.last_seen + 110 * S
        await fleet.silence(111, one)
        await fleet.ticked(0)
        found = (await checks(connection, [one])).get(one)
        assert found is not None
        assert not found.healthy
        await fleet.kill(one)
        assert (await checks(connection, [one])).get(one) is None
        assert await checks(connection, [new_id()]) == {}


async def test_mending_gives_the_living_their_rows_and_takes_those_of_the_dead(fleet: Fleet) -> None:
    alive, dead, recent = await fleet.add(), await fleet.add(), await fleet.add()
    await fleet.do(Kill(dead), Kill(recent))
    await fleet.sql.execute("delete from heartbeat")
    await fleet.sql.execute(
        "insert into heartbeat (instance_id, timeout, last_seen)"
        " select unnest($1::uuid[]), '30 s', clock_timestamp() - unnest($2::interval[])",
        [dead, recent],
        [120 * S, 0 * S],
    )
    async with fleet.connections.upkeep.use() as connection:
        assert await mend(connection) == 2
        assert await mend(connection) == 0
    # one that was written a moment ago may belong to a turn that has not committed yet
    assert {row[0] for row in await fleet.rows("select instance_id from heartbeat")} == {alive, recent}
