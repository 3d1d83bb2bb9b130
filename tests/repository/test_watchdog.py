"""Connections that the network has lost are ended soon; those on which the server works, however long, are not."""

import asyncio
from time import monotonic

import pytest
from sqlalchemy import text

from manager.repository import watchdog as module
from manager.repository.database import Database as Connections
from manager.repository.database import is_lost
from tests.conftest import Database
from tests.faults.proxy import proxied, server_of
from tests.faults.toxics import HalfOpen


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(module, "LATE", 0.3)


async def test_who_waits_on_a_dead_connection_hears_of_it_and_the_next_one_works(database: Database) -> None:
    async with proxied(server_of(database.url)) as proxy:
        connections = Connections(proxy.instead(database.url), 2)
        watch = asyncio.create_task(connections.watchdog.watch())
        async with connections.turns.use() as connection:
            await connection.execute(text("select 1"))
            await connection.rollback()
        proxy.add(HalfOpen())
        asyncio.get_running_loop().call_later(0.2, proxy.heal)
        begun = monotonic()
        with pytest.raises(Exception) as lost:  # noqa: PT011 - whichever wrapping it comes in
            async with connections.turns.use() as connection:
                await connection.execute(text("select 1"))
        assert is_lost(lost.value)
        assert monotonic() - begun < 3
        async with connections.turns.use() as connection:
            assert (await connection.execute(text("select 1"))).scalar() == 1
        watch.cancel()
        await connections.close()


async def test_a_long_statement_is_left_alone(database: Database) -> None:
    connections = Connections(database.url, 2)
    watch = asyncio.create_task(connections.watchdog.watch())
    async with connections.readers.use() as connection:
        await connection.execute(text("select pg_sleep(1.5)"))
    watch.cancel()
    await connections.close()


async def test_who_lets_the_server_wait_between_statements_is_left_alone(database: Database) -> None:
    connections = Connections(database.url, 2)
    watch = asyncio.create_task(connections.watchdog.watch())
    async with connections.readers.snapshot() as connection:
        for _ in range(5):
            await connection.execute(text("select 1"))
            await asyncio.sleep(0.25)
    watch.cancel()
    await connections.close()
