"""How long things are kept: managers lengthen it, and im_retention alone shortens it, as an act on the trail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from manager.domain.actor import Actor
from manager.repository import trim
from manager.repository.database import Session, engine_of
from manager.repository.trim import NotYours, Retention
from manager.settings import Settings
from manager.upkeep import keep_up, retention_of, sweep
from tests.conftest import PASSWORD, Database, at
from tests.fleet import Fleet, fleet_of

DAY = timedelta(days=1)
USUAL = retention_of(Settings())
SHORT = Retention(DAY, DAY, DAY, minutes=DAY, hours=DAY, trail=30 * DAY, denied=30 * DAY)
LONG = Retention(*(each.default * 2 if isinstance(each.default, timedelta) else 60 * DAY for each in fields(Retention)))


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


@pytest.fixture
async def keeper(database: Database) -> AsyncIterator[str]:
    """The address of somebody in im_retention."""
    name = f"{database.name}_keeper"
    await database.run(f"create role {name} login password '{PASSWORD}' in role im_retention")
    yield at(database.url, database=database.name, user=name, password=PASSWORD)
    await database.run(f"drop role {name}")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    session = Session(engine_of(url, name="test"))
    async with session.use() as connection:
        yield connection
    await session.close()


async def kept(fleet: Fleet) -> Retention:
    async with fleet.connections.upkeep.use() as connection:
        return await trim.kept(connection)


async def test_what_the_settings_say_is_what_a_new_database_keeps(fleet: Fleet) -> None:
    assert await kept(fleet) == USUAL


async def test_a_manager_lengthens_and_does_not_shorten(fleet: Fleet) -> None:
    async with fleet.connections.upkeep.use() as connection:
        assert await trim.keep(connection, SHORT) == USUAL
        mixed = replace(SHORT, history=9 * DAY)
        assert await trim.keep(connection, mixed) == replace(USUAL, history=9 * DAY)
        assert await trim.keep(connection, LONG) == LONG
    assert await kept(fleet) == LONG


@pytest.mark.parametrize("name", [each.name for each in fields(Retention)])
async def test_nor_does_whoever_has_its_password(database: Database, name: str) -> None:
    connection = await asyncpg.connect(database.url)
    before = await connection.fetchval(f"select {name}_kept from control")
    await connection.execute(f"update control set {name}_kept = {name}_kept - interval '1 hour'")
    assert await connection.fetchval(f"select {name}_kept from control") == before
    await connection.close()


async def test_nor_cuts_the_history_off_where_it_likes(database: Database) -> None:
    connection = await asyncpg.connect(database.url)
    for column in ("compacted_revision", "compacted_ordinal", "compacted_nonce", "buried_revision"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"update control set {column} = {column}")
    await connection.close()


async def test_young_events_stay_when_the_server_says_that_a_second_is_enough(fleet: Fleet) -> None:
    await fleet.add()
    await fleet.sql.execute("update event set at = at - interval '6 days'")
    one_second = replace(USUAL, history=timedelta(seconds=1))
    await sweep(fleet.connections.upkeep, 2, one_second)
    assert await fleet.value("select count(*) from event") == 1


async def test_im_retention_shortens_as_an_act_on_the_trail(fleet: Fleet, keeper: str) -> None:
    async with connected(keeper) as connection:
        assert await trim.shorten(connection, SHORT, Actor("ann by imctl")) == (USUAL, SHORT)
        assert await trim.shorten(connection, SHORT, Actor("ann by imctl")) == (SHORT, SHORT)
    assert await kept(fleet) == SHORT
    (act,) = await fleet.rows("select who, note from audit.acts where act = 'RETENTION'")
    assert act["who"] == "ann by imctl"
    assert "trail from 400 days to 30 days" in act["note"]
    assert "history from 7 days to 1 day," in act["note"]


async def test_and_may_do_nothing_else(keeper: str) -> None:
    connection = await asyncpg.connect(keeper)
    for statement in (
        "select * from instance",
        "select * from token",
        "update control set serves_from = '0'",
        "update control set compacted_revision = 9",
        "delete from event",
        "delete from trail",
        "insert into event default values",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    for function in ("compact_history", "delete_compacted", "bury_dead", "trim_trail", "trim_denied"):
        await connection.fetchval(f"select {function}(1)")
    await connection.fetchval("select drop_old_metrics()")
    await connection.close()


async def test_a_server_that_shortens_by_command_is_refused_and_has_changed_nothing(fleet: Fleet) -> None:
    mixed = replace(SHORT, history=9 * DAY)
    with pytest.raises(NotYours, match="a member of im_retention"):
        async with fleet.connections.upkeep.use() as connection:
            await trim.shorten(connection, mixed, Actor("bob by imctl"))
    assert await kept(fleet) == USUAL
    assert await fleet.rows("select 1 from audit.acts where act = 'RETENTION'") == []


async def test_a_manager_tells_once_what_is_kept_for_longer_than_it_is_set_to(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    keeping = asyncio.create_task(keep_up(fleet.connections.upkeep, 2, SHORT, timedelta(milliseconds=10)))
    rounds = "the head of the trail is"
    async with asyncio.timeout(20):
        while sum(rounds in each.getMessage() for each in caplog.records) < 3:
            await asyncio.sleep(0.01)
    keeping.cancel()
    (told,) = [each.getMessage() for each in caplog.records if "imctl admin retention" in each.getMessage()]
    assert told.endswith("metrics, history, tombstones, minutes, hours, trail, denied")
