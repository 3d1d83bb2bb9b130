"""A turn: one transaction at a time changes the fleet, and numbers its changes densely."""

import asyncio
from typing import Any

import asyncpg
import pytest

from manager.domain.actor import Actor
from manager.domain.calls import Kill, Outcome, Registration, Tick
from manager.domain.event import Event, EventType
from manager.domain.instance import InstanceType
from manager.presence import new_id
from manager.repository.database import DRIVERS, is_lost
from manager.repository.database import Database as Connections
from manager.repository.turn import UnknownHistoryError, open_epoch, turn
from tests.conftest import NOTIFY, Database
from tests.fleet import Fleet

EPOCHS = "select number, base_revision, reason from history_epoch order by number"
# a database that was restored from a dump has another oid
RESTORE = "update history_epoch set database_oid = database_oid + 1"


async def test_the_first_turn_of_a_database_opens_its_first_epoch(fleet: Fleet) -> None:
    await fleet.add()
    rows = await fleet.rows(EPOCHS)
    assert [(row["number"], row["base_revision"]) for row in rows] == [(1, 0)]


async def test_a_turn_on_an_unknown_history_changes_nothing(fleet: Fleet) -> None:
    await fleet.add()
    await fleet.sql.execute(RESTORE)
    entered = False
    with pytest.raises(UnknownHistoryError):
        async with fleet.connections.turns.use() as connection, turn(connection):
            entered = True
    assert not entered


async def test_a_call_on_an_unknown_history_opens_an_epoch_at_its_head_and_is_then_carried_out(fleet: Fleet) -> None:
    await fleet.chain(3)
    await fleet.sql.execute(RESTORE)
    await fleet.add()
    rows = await fleet.rows(EPOCHS)
    assert [(row["number"], row["base_revision"]) for row in rows] == [(1, 0), (2, 3)]
    assert await fleet.head() == 4


@pytest.mark.parametrize("column", ["system_identifier", "timeline", "database_oid", "event_oid"])
async def test_each_sign_of_another_history_is_heeded(fleet: Fleet, column: str) -> None:
    await fleet.add()
    await fleet.sql.execute(f"update history_epoch set {column} = {column} + 1")
    await fleet.add()
    assert len(await fleet.rows(EPOCHS)) == 2


async def test_two_managers_open_one_epoch(fleet: Fleet, other: Fleet) -> None:
    for number in range(1, 6):
        await asyncio.gather(fleet.add(), other.add())
        assert len(await fleet.rows(EPOCHS)) == number
        await fleet.sql.execute(RESTORE)


async def test_an_operator_opens_an_epoch_on_a_known_history(fleet: Fleet) -> None:
    await fleet.add()
    async with fleet.connections.turns.use() as connection:
        assert await open_epoch(connection, "nothing new") is None
        assert await open_epoch(connection, "the disk was rolled back", forced=True) is not None
    assert [(row["number"], row["base_revision"]) for row in await fleet.rows(EPOCHS)] == [(1, 0), (2, 1)]


async def test_revisions_stay_dense_when_every_event_was_trimmed(fleet: Fleet) -> None:
    await fleet.chain(5)
    await fleet.sql.execute("update control set compacted_revision = 5")
    await fleet.sql.execute("delete from event")
    await fleet.add()
    assert await fleet.head() == 6


async def test_revisions_go_on_after_the_base_of_an_epoch(fleet: Fleet) -> None:
    """An operator who restores may leave room for what was lost."""
    await fleet.add()
    await fleet.sql.execute("update history_epoch set base_revision = 1000")
    await fleet.add()
    assert await fleet.head() == 1001


async def test_every_call_has_a_revision_of_its_own_without_gaps_in_order_of_commit(fleet: Fleet, other: Fleet) -> None:
    seen: list[int] = []

    async def watching() -> None:
        while not seen or seen[-1] < 400:
            rows = await fleet.rows("select distinct revision from event where revision > $1 order by 1", len(seen))
            seen.extend(row[0] for row in rows)
            assert seen == list(range(1, len(seen) + 1)), "what is visible is a prefix"

    async def adding(by: Fleet) -> list[Outcome]:
        outcomes = []
        for size in (1, 2, 3, 14) * 10:
            calls = [Registration(new_id(), InstanceType.WARMPOOL_PROXY) for _ in range(size)]
            outcomes += await by.do(*calls)
        return outcomes

    one, two, _ = await asyncio.gather(adding(fleet), adding(other), watching())
    assert sorted(outcome.revision for outcome in one + two) == list(range(1, 401))


async def test_calls_that_wait_together_share_one_transaction(fleet: Fleet) -> None:
    await fleet.chain(50)
    assert await fleet.value("select count(distinct xid) from event") == 1
    assert await fleet.value("select count(distinct nonce) from event") == 1


async def test_the_events_of_a_change_share_its_revision_and_are_numbered(fleet: Fleet) -> None:
    async with fleet.connections.turns.use() as connection:
        await open_epoch(connection, "the test's")
        async with turn(connection) as present:
            for count in (2, 3):
                revision = present.next_revision()
                for _ in range(count):
                    present.tell(Event(revision, EventType.CHILD_ADDED, new_id(), None, None))
    assert [row[:2] for row in await fleet.story()] == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


async def test_a_turn_that_fails_changes_nothing_and_uses_no_revision(fleet: Fleet) -> None:
    await fleet.add()

    async def failing() -> None:
        async with fleet.connections.turns.use() as connection, turn(connection) as present:
            present.tell(Event(present.next_revision(), EventType.CHILD_ADDED, new_id(), None, None))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()
    await fleet.add()
    assert [revision for revision, *_ in await fleet.story()] == [1, 2]


@pytest.mark.skipif(not NOTIFY, reason="IM_NOTIFY is off")
async def test_a_turn_rings_once_with_its_head(fleet: Fleet, other: Fleet) -> None:
    rings: list[str] = []

    def hear(*ring: Any) -> None:
        rings.append(ring[-1])

    await fleet.add()
    await other.sql.add_listener("instance_manager", hear)
    ids = await fleet.chain(20)
    await fleet.check(*ids)
    await fleet.do(*(Kill(each) for each in ids), Tick(Actor("a test")))
    await fleet.kill(ids[0])  # changes nothing more
    await fleet.tick()
    await other.value("select 1")
    assert rings == ["21", "41"]


async def test_a_frozen_manager_does_not_stop_the_others(fleet: Fleet, database: Database) -> None:
    await fleet.add()
    frozen = Connections(database.url, read_connections=1)

    async def freezing() -> None:
        async with frozen.turns.use() as connection, turn(connection):
            await fleet.add()  # waits for longer than an idle transaction may last

    with pytest.raises(DRIVERS) as lost:  # which one depends on when the last word of the server came
        await freezing()
    assert is_lost(lost.value)
    assert await fleet.head() == 2
    await frozen.close()


async def test_a_turn_is_durable_whatever_the_server_says(fleet: Fleet, database: Database) -> None:
    await fleet.sql.execute(f'alter database "{database.name}" set synchronous_commit = off')
    fresh = Connections(database.url, read_connections=1)
    async with fresh.turns.use() as connection:
        assert (await connection.exec_driver_sql("show synchronous_commit")).scalar() == "on"
    await fresh.close()


async def test_the_lock_is_free_for_others_between_turns(fleet: Fleet, database: Database) -> None:
    await fleet.add()
    connection = await asyncpg.connect(database.admin)
    assert await connection.fetchval("select pg_try_advisory_xact_lock(4711, 1)")
    await connection.close()
