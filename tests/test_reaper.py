"""The pulse: what a tick found is heard, and so is that the database does not take one, be it refused or only late."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from manager.domain.actor import Actor
from manager.reaper import reap
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


async def test_a_tick_that_waits_for_long_is_heard_of_before_it_ends(fleet: Fleet) -> None:
    heard: list[bool] = []
    await fleet.tick()  # what the first one costs alone, a connection and an epoch, is not what is measured
    pulse = asyncio.create_task(
        reap(
            fleet.turns,
            Actor("a test"),
            timedelta(milliseconds=20),
            timedelta(milliseconds=200),
            lambda ticked: heard.append(ticked is not None),
        )
    )
    while not heard:
        await asyncio.sleep(0.01)
    assert heard[0]
    async with fleet.sql.transaction():
        await fleet.sql.execute("select pg_advisory_xact_lock(4711, 1)")
        await asyncio.sleep(0.1)
        heard.clear()
        await asyncio.sleep(0.4)
        assert heard == [False]
    await asyncio.sleep(0.2)
    assert heard[-1]
    pulse.cancel()
