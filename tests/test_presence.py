"""Presence: a manager is seen by all and killed like all."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from manager.domain.actor import Actor
from manager.domain.calls import Kill
from manager.domain.instance import MANAGER_LABEL, WORKER_LABEL, InstanceId
from manager.presence import Presence, Supervisor, new_id
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


@asynccontextmanager
async def keeping(fleet: Fleet) -> AsyncIterator[tuple[Presence, asyncio.Task[str]]]:
    presence = Presence(fleet.turns, fleet.checks, fleet.connections.readers, 0.01, {MANAGER_LABEL: "1.2.3"}, new_id())
    task = asyncio.create_task(presence.keep())
    await until_living(fleet, presence.id)
    yield presence, task
    task.cancel()


async def until_living(fleet: Fleet, one: InstanceId) -> None:
    async with asyncio.timeout(5):
        while one not in await fleet.living():
            await asyncio.sleep(0.005)


async def test_a_manager_is_an_instance_with_its_release_as_a_label(fleet: Fleet) -> None:
    async with keeping(fleet) as (presence, _):
        (row,) = await fleet.rows("select id, type, labels from live_instance")
        assert tuple(row) == (presence.id, "INSTANCE_MANAGER", '{"instance-manager/version": "1.2.3"}')


async def test_a_killed_manager_learns_who_did_it_and_why(fleet: Fleet) -> None:
    async with keeping(fleet) as (presence, task):
        await fleet.do(Kill(presence.id, "drain this host", Actor("alice")))
        async with asyncio.timeout(5):
            assert await task == "alice (drain this host)"


async def test_an_expired_manager_registers_anew_under_another_id(fleet: Fleet) -> None:
    async with keeping(fleet) as (presence, task):
        first = presence.id
        # as the reaper of another manager would, while this one was frozen
        async with asyncio.timeout(5):
            while first in await fleet.living():
                await fleet.silence(100, first)
                await fleet.tick()
            while presence.id == first:
                await asyncio.sleep(0.005)
        await until_living(fleet, presence.id)
        assert await fleet.living() == {presence.id}
        assert not task.done()


async def test_a_manager_unknown_to_a_restored_database_registers_anew(fleet: Fleet) -> None:
    async with keeping(fleet) as (presence, task):
        first = presence.id
        await fleet.sql.execute("truncate heartbeat, instance cascade")
        async with asyncio.timeout(5):
            while presence.id == first:
                await asyncio.sleep(0.005)
        await until_living(fleet, presence.id)
        assert not task.done()


@pytest.mark.parametrize("table", ["heartbeat", "instance"])
async def test_a_fault_of_the_database_ends_no_manager(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    """One that is served still is worth more than none; and that its own calls fail is in the log."""
    async with keeping(fleet) as (presence, task):
        await fleet.sql.execute(f"alter table {table} rename to elsewhere")
        async with asyncio.timeout(5):
            while "own call was not answered" not in caplog.text and not task.done():
                await asyncio.sleep(0.005)
        await fleet.sql.execute(f"alter table elsewhere rename to {table}")
        await fleet.do(Kill(presence.id, "drain this host", Actor("alice")))
        async with asyncio.timeout(5):
            assert await task == "alice (drain this host)"


async def test_a_manager_that_leaves_is_gone_at_once(fleet: Fleet) -> None:
    async with keeping(fleet) as (presence, _):
        await presence.leave()
        assert await fleet.living() == set()
        (row,) = await fleet.rows("select actor, note from event_log where type = 'REMOVED'")
        assert tuple(row) == (f"manager {presence.id}", "stopped")


@asynccontextmanager
async def working(fleet: Fleet, *above: Supervisor) -> AsyncIterator[list[tuple[Presence, asyncio.Task[str]]]]:
    """Workers, each with what it knows of its supervisor."""
    labels = {MANAGER_LABEL: "1.2.3"}
    workers = [
        Presence(fleet.turns, fleet.checks, fleet.connections.readers, 0.01, labels, new_id(), each) for each in above
    ]
    tasks = [asyncio.create_task(each.keep()) for each in workers]
    async with asyncio.timeout(5):
        while not {each.id for each in workers} <= await fleet.living():
            await asyncio.sleep(0.005)
    yield list(zip(workers, tasks, strict=True))
    for task in tasks:
        task.cancel()


async def test_a_worker_is_below_its_supervisor_and_leaves_alone(fleet: Fleet) -> None:
    whole = new_id()
    async with working(fleet, Supervisor(whole, 1), Supervisor(whole, 2)) as ((one, _), (two, _)):
        rows = await fleet.rows("select id, labels, parent_id from live_instance order by labels ->> $1", WORKER_LABEL)
        assert {row["id"]: row["parent_id"] for row in rows} == {one.id: whole, two.id: whole, whole: None}
        assert '"instance-manager/worker": "1"' in rows[0]["labels"]
        await one.leave()
        assert await fleet.living() == {two.id, whole}


async def test_when_all_stop_the_first_worker_takes_all_out(fleet: Fleet) -> None:
    whole = new_id()
    async with working(fleet, Supervisor(whole, 1, stops=True), Supervisor(whole, 2)) as ((one, _), _):
        await one.leave()
        assert await fleet.living() == set()


async def test_killing_the_supervisor_kills_every_worker_and_those_that_come_later(fleet: Fleet) -> None:
    whole = new_id()
    async with working(fleet, Supervisor(whole, 1), Supervisor(whole, 2)) as workers:
        await fleet.do(Kill(whole, "move out", Actor("alice")))
        late = Presence(fleet.turns, fleet.checks, fleet.connections.readers, 0.01, {}, new_id(), Supervisor(whole, 3))
        async with asyncio.timeout(5):
            for _, task in workers:
                assert await task == "alice (move out)"
            assert await late.keep() == "alice (move out)"
    assert await fleet.living() == set()


async def test_workers_whose_supervisor_expired_meet_again_below_one_new_id(fleet: Fleet) -> None:
    whole = new_id()
    async with working(fleet, Supervisor(whole, 1), Supervisor(whole, 2)) as ((one, _), (two, _)):
        async with asyncio.timeout(5):
            while whole in await fleet.living():
                await fleet.silence(100, whole)
                await fleet.tick()
            while whole in (one.supervisor.id, two.supervisor.id) or len(await fleet.living()) < 3:  # type: ignore[union-attr]
                await asyncio.sleep(0.005)
        # one that knows only the first id, as its supervisor process does
        async with working(fleet, Supervisor(whole, 3)) as ((late, _),):
            parents = {row["parent_id"] for row in await fleet.rows("select parent_id from live_instance")}
            assert parents == {None, one.supervisor and one.supervisor.id}
            assert await fleet.living() >= {one.id, two.id, late.id}


def test_ids_are_uuids_of_version_7_in_order() -> None:
    ids = [str(new_id()) for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each) for each in ids
    )
    milliseconds = [each[:13] for each in ids]
    assert milliseconds == sorted(milliseconds)
