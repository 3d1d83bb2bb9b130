"""Trimming: what is past its retention goes, in nobody's way, and nobody is shown a hole."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from manager.domain.calls import Kill
from manager.domain.instance import InstanceId
from manager.domain.refusals import HistoryGone
from manager.repository import history, trim
from manager.repository.trim import Retention
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of

DAY = timedelta(days=1)


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


async def trimmed(fleet: Fleet, kept: Retention) -> None:
    """Every step there is to do."""
    await fleet.retain(kept)
    async with fleet.connections.upkeep.use() as connection:
        while await trim.step(connection):
            pass


KEPT = Retention(metrics=DAY, history=7 * DAY, tombstones=30 * DAY)


async def age(fleet: Fleet, upto: int, days: int) -> None:
    await fleet.sql.execute("update event set at = at - $2 * interval '1 day' where revision <= $1", upto, days)


async def test_events_past_the_retention_go_and_the_others_stay(fleet: Fleet) -> None:
    for _ in range(6):
        await fleet.add()
    await age(fleet, 4, 8)
    nonce = await fleet.value("select nonce from event where revision = 4")
    await trimmed(fleet, KEPT)
    assert [row["revision"] for row in await fleet.rows("select revision from event order by 1")] == [5, 6]
    control = (await fleet.rows("select * from control"))[0]
    assert (control["compacted_revision"], control["compacted_ordinal"], control["compacted_nonce"]) == (4, 0, nonce)


async def test_a_history_trimmed_to_none_goes_on_where_it_was(fleet: Fleet) -> None:
    for _ in range(3):
        await fleet.add()
    async with fleet.connections.readers.use() as connection:
        before = await history.head(connection)
    await age(fleet, 3, 8)
    await trimmed(fleet, KEPT)
    assert await fleet.value("select count(*) from event") == 0
    async with fleet.connections.readers.use() as connection:
        assert await history.head(connection) == before
        await history.judge(connection, before)
        await fleet.add()
        page = await history.read(connection, (before.revision, before.ordinal), 10)
        assert [each.key for each in page.events] == [(4, 0)]


async def test_a_place_before_the_cut_is_refused_in_the_middle_of_a_revision_too(fleet: Fleet) -> None:
    parent = await fleet.add()
    await fleet.add(parent)
    await fleet.add()
    await age(fleet, 2, 8)
    await trimmed(fleet, KEPT)
    async with fleet.connections.readers.use() as connection:
        for key in ((0, 0), (1, 0), (2, 0), (2, 1)):
            with pytest.raises(HistoryGone, match="from revision 3 on"):
                await history.read(connection, key, 10)
        assert [each.key for each in (await history.read(connection, (2, 2), 10)).events] == [(3, 0)]


async def test_what_was_cut_off_is_refused_before_it_is_deleted(fleet: Fleet) -> None:
    for _ in range(4):
        await fleet.add()
    await age(fleet, 2, 8)
    async with fleet.connections.upkeep.use() as connection:
        await trim.keep(connection, KEPT)
        await connection.execute(trim.COMPACT, {"step": 5_000})
    assert await fleet.value("select count(*) from event") == 4
    async with fleet.connections.readers.use() as connection:
        with pytest.raises(HistoryGone):
            await history.read(connection, (1, 0), 10)


async def test_an_old_event_behind_a_young_one_waits_for_it(fleet: Fleet) -> None:
    """The clock was set back for a while: the order of the history is that of its revisions."""
    for _ in range(3):
        await fleet.add()
    await fleet.sql.execute("update event set at = at - interval '8 days' where revision in (1, 3)")
    await trimmed(fleet, KEPT)
    assert [row["revision"] for row in await fleet.rows("select revision from event order by 1")] == [2, 3]


async def test_the_dead_are_forgotten_only_after_their_time_and_their_history(fleet: Fleet) -> None:
    old, recent, unread = await fleet.add(), await fleet.add(), await fleet.add()
    child = await fleet.add(old)
    for each in (old, recent, unread):
        await fleet.turns.submit(Kill(each))
    await fleet.sql.execute("update instance set died_at = died_at - interval '31 days' where id <> $1", recent)
    died: int = await fleet.value("select died_revision from instance where id = $1", recent)
    await age(fleet, died, 31)
    await trimmed(fleet, KEPT)
    left = {row["id"] for row in await fleet.rows("select id from instance")}
    assert left == {recent, unread}
    assert await fleet.value("select count(*) from parent_link where child_id = $1", child) == 0


@pytest.fixture
async def dead(fleet: Fleet) -> InstanceId:
    """One whose tombstone and whose events are past their time, and cut off; neither is deleted."""
    one = await fleet.add()
    await fleet.kill(one, "why")
    await age(fleet, 2, 31)
    await fleet.sql.execute("update instance set died_at = died_at - interval '31 days'")
    await fleet.sql.execute("select compact_history(100)")
    return one


EPITAPHS = "select count(*) from epitaph"


@pytest.mark.usefixtures("dead")
async def test_an_epitaph_is_laid_by_with_the_event_and_goes_with_the_dead(fleet: Fleet) -> None:
    assert await fleet.value("select delete_compacted(1)") == 1
    assert await fleet.value(EPITAPHS) == 0
    assert await fleet.value("select delete_compacted(100)") == 1
    assert await fleet.value(EPITAPHS) == 1
    assert await fleet.value("select bury_dead(10)") == 1
    assert await fleet.value(EPITAPHS) == 0


@pytest.mark.usefixtures("dead")
async def test_who_is_buried_before_the_events_are_deleted_leaves_no_epitaph(fleet: Fleet) -> None:
    assert await fleet.value("select bury_dead(10)") == 1
    assert await fleet.value("select delete_compacted(100)") == 2
    assert await fleet.value(EPITAPHS) == 0


@pytest.mark.usefixtures("dead")
async def test_who_is_being_buried_while_the_events_are_deleted_leaves_no_epitaph(
    fleet: Fleet, database: Database
) -> None:
    async with fleet.sql.transaction():
        assert await fleet.value("select bury_dead(10)") == 1
        deleting = asyncio.create_task(database.value("select delete_compacted(100)"))
        await asyncio.sleep(0.3)
        assert not deleting.done()
    assert await deleting == 2
    assert await fleet.value(EPITAPHS) == 0


@pytest.mark.usefixtures("dead")
async def test_nobody_is_buried_while_the_events_are_deleted(fleet: Fleet, database: Database) -> None:
    async with fleet.sql.transaction():
        assert await fleet.value("select delete_compacted(100)") == 2
        assert await database.value("select bury_dead(10)") == 0
    assert await fleet.value(EPITAPHS) == 1
    assert await fleet.value("select bury_dead(10)") == 1
    assert await fleet.value(EPITAPHS) == 0


async def test_a_turn_does_not_wait_for_deletions(fleet: Fleet) -> None:
    for _ in range(20):
        await fleet.add()
    gone = await fleet.add()
    await fleet.kill(gone)
    await age(fleet, 22, 8)
    async with fleet.connections.upkeep.use() as connection:
        await trim.keep(connection, KEPT)
        await connection.execute(trim.COMPACT, {"step": 5_000})
    async with fleet.sql.transaction():
        await fleet.sql.fetchval("select delete_compacted(100)")
        await asyncio.wait_for(fleet.add(), timeout=2)
        killed = await asyncio.wait_for(fleet.kill(gone), timeout=2)
    assert killed.reason is None


async def test_two_managers_trim_at_once(fleet: Fleet, database: Database) -> None:
    for _ in range(30):
        await fleet.add()
    await age(fleet, 25, 8)
    async with fleet_of(database) as other:
        await asyncio.gather(trimmed(fleet, KEPT), trimmed(other, KEPT))
    assert await fleet.value("select min(revision) from event") == 26
