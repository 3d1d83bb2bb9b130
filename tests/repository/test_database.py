"""What the failures of a database mean."""

import asyncio
import random

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from manager.domain.refusals import Unavailable
from manager.embedded import start
from manager.repository import migrations
from manager.repository.database import Database as Connections
from manager.repository.database import connect
from manager.repository.driver import rows
from tests.conftest import Database
from tests.fleet import fleet_of


async def test_a_commit_that_no_standby_has_is_unknown_and_not_acknowledged() -> None:
    with start(ephemeral=True, durable=False) as postgres:
        await migrations.upgrade(postgres.url())
        admin = await asyncpg.connect(postgres.url())
        async with fleet_of(Database("postgres", postgres.url(), postgres.url())) as fleet:
            await fleet.add()
            await admin.execute("alter system set synchronous_standby_names = 'a_standby_that_is_away'")
            await admin.execute("select pg_reload_conf()")
            await asyncio.sleep(1)  # the checkpointer tells the others of it
            adding = asyncio.create_task(fleet.add())
            async with asyncio.timeout(10):
                while not await admin.fetchval("""
                    select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"""):
                    await asyncio.sleep(0.05)
            with pytest.raises(Unavailable, match="no standby"):
                await adding
            await admin.execute("alter system reset synchronous_standby_names")
            await admin.execute("select pg_reload_conf()")
            await asyncio.sleep(0.2)
            await fleet.add()
        await admin.close()


async def test_what_is_given_up_leaves_its_connection_as_it_was(database: Database) -> None:
    connections = Connections(database.url, read_connections=1)
    chance = random.Random(7)

    async def look(found: int) -> int:
        async with connections.readers.use() as connection:
            (row,) = await rows(connection, text(f"select {found} as found"))
        return int(row.found)

    async def look_by_sqlalchemy() -> int:
        async with connections.readers.use() as connection:
            return int((await connection.execute(text("select count(pg_sleep(0.01))"))).scalar_one())

    async def snap(statement: str) -> int:
        async with connections.readers.snapshot() as connection:
            await connection.execute(text("select 1"))
            (row,) = await rows(connection, text(statement))
        return int(row.found)

    for number in range(150):
        match number % 3:
            case 0:
                asked = asyncio.create_task(look(number))
            case 1:
                asked = asyncio.create_task(look_by_sqlalchemy())
            case _:
                asked = asyncio.create_task(snap("select count(pg_sleep(0.01)) as found"))
        for _ in range(chance.randrange(12)):  # to be given up in each of its waits, the preparing of it included
            await asyncio.sleep(0)
        await asyncio.sleep(chance.choice((0, 0, 0.0005, 0.01)))
        for _ in range(chance.choice((1, 1, 3))):
            asked.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([asked])
        assert asked.cancelled() or asked.exception() is None
        assert await snap("select 42 as found") == 42
    await connections.close()


async def test_a_statement_ends_soon_after_the_process_that_asked_for_it(database: Database) -> None:
    """Of a killed manager, such as one that holds the lock of turns."""
    connection = await connect(database.url, name="test")
    pid = connection.get_server_pid()
    asking = asyncio.ensure_future(connection.execute("select pg_sleep(20)"))
    counted = "select count(*) from pg_stat_activity where pid = $1 and state = 'active'"
    async with asyncio.timeout(3):
        while not await database.value(counted, pid):
            await asyncio.sleep(0.02)
    connection._transport.abort()  # as the kernel does, without a word of cancelling
    async with asyncio.timeout(3):
        while await database.value(counted, pid):
            await asyncio.sleep(0.05)
    await asyncio.gather(asking, return_exceptions=True)


async def test_what_asyncpg_leaves_to_nobody_is_not_logged_and_all_else_is(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    for said in ("unexpected connection_lost() call", "another"):
        told = {"message": "Future exception was never retrieved", "exception": ConnectionError(said)}
        loop.default_exception_handler(told)
    assert "another" in caplog.text
    assert "unexpected" not in caplog.text


async def test_the_text_of_a_failure_tells_no_value_that_was_bound(database: Database) -> None:
    connections = Connections(database.url, read_connections=1)
    async with connections.readers.use() as connection:
        with pytest.raises(DBAPIError, match="division by zero") as failed:
            await connection.execute(text("select 1 / 0 as x where cast(:secret as text) <> ''"), {"secret": "canary"})
    assert "canary" not in f"{failed.value} {failed.value!r}"
    await connections.close()
