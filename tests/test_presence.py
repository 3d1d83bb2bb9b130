"""Presence: a manager is seen by all and killed like all."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from manager.domain.calls import Kill
from manager.domain.instance import MANAGER_LABEL, InstanceId
from manager.presence import Presence, new_id
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
        await fleet.do(Kill(presence.id, "drain this host", "alice"))
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


async def test_a_manager_that_leaves_is_gone_at_once(fleet: Fleet) -> None:
    async with keeping(fleet) as (presence, _):
        await presence.leave()
        assert await fleet.living() == set()
        (row,) = await fleet.rows("select actor, note from event_log where type = 'REMOVED'")
        assert tuple(row) == (f"manager {presence.id}", "stopped")


def test_ids_are_uuids_of_version_7_in_order() -> None:
    ids = [str(new_id()) for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", each) for each in ids
    )
    milliseconds = [each[:13] for each in ids]
    assert milliseconds == sorted(milliseconds)
