"""Who is turned away: counted, written together, and bounded, however many strangers knock."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from manager.denials import OTHERS, WINDOW, Denials
from manager.repository import denied, trim
from manager.repository.trim import Retention
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of
from tests.test_keyring import Clock

DAY = timedelta(days=1)
UNKNOWN, FORBIDDEN = 16, 7
GET, KILL = "/instance_manager.GetService/GetInstance", "/instance_manager.TryService/TryKillInstance"


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


async def kept(fleet: Fleet) -> dict[tuple[str, str, str, str], int]:
    rows = await fleet.rows("select * from audit.denied_calls")
    return {(each["who"], each["address"], each["method"], each["code"]): each["calls"] for each in rows}


async def test_what_is_the_same_is_counted_together_and_over_writes_and_managers(fleet: Fleet) -> None:
    one, other = (Denials(fleet.connections.readers, rows=10) for _ in range(2))
    for each in (one, other):
        for _ in range(3):
            each.count("", "10.0.0.9", GET, UNKNOWN)
        each.count("ann", "10.0.0.1", KILL, FORBIDDEN)
        await each.write()
    one.count("", "10.0.0.9", GET, UNKNOWN)
    await one.write()
    assert await kept(fleet) == {
        ("", "10.0.0.9", GET, "UNAUTHENTICATED"): 7,
        ("ann", "10.0.0.1", KILL, "PERMISSION_DENIED"): 2,
    }


async def test_a_flood_from_everywhere_is_one_row_beyond_those_that_there_may_be(fleet: Fleet) -> None:
    clock = Clock()
    denials = Denials(fleet.connections.readers, rows=5, clock=clock)
    for number in range(10_000):
        denials.count("", f"10.0.{number // 256}.{number % 256}", GET, UNKNOWN)
        if number == 100:
            await denials.write()
    await denials.write()
    found = await kept(fleet)
    assert len(found) == 6
    assert found["", OTHERS, GET, "UNAUTHENTICATED"] == 9_995
    clock.now += WINDOW + 1
    denials.count("", "10.9.9.9", GET, UNKNOWN)
    await denials.write()
    assert ("", "10.9.9.9", GET, "UNAUTHENTICATED") in await kept(fleet)


async def test_while_the_database_is_away_they_are_counted_on_and_stay_bounded(fleet: Fleet) -> None:
    clock = Clock()
    denials = Denials(fleet.connections.readers, rows=5, clock=clock)
    await fleet.sql.execute("alter role im_server connection limit 0")
    await fleet.sql.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'im_server'")
    try:
        for hour in range(3):
            for number in range(10):
                denials.count("", f"10.0.{hour}.{number}", GET, UNKNOWN)
            clock.now += WINDOW + 1
            await denials.write()
    finally:
        await fleet.sql.execute("alter role im_server connection limit -1")
    await denials.write()
    assert sum((await kept(fleet)).values()) == 30
    assert len(await kept(fleet)) == 6


async def test_they_go_when_they_are_past_their_retention_and_no_earlier(fleet: Fleet) -> None:
    denials = Denials(fleet.connections.readers, rows=5)
    for address in ("old", "young"):
        denials.count("", address, GET, UNKNOWN)
    await denials.write()
    await fleet.sql.execute("update denied_call set since = since - interval '41 days' where address = 'old'")
    await fleet.sql.execute("update denied_call set since = since - interval '39 days' where address = 'young'")
    await fleet.retain(Retention(DAY, 7 * DAY, 30 * DAY, denied=40 * DAY))
    async with fleet.connections.upkeep.use() as connection:
        while await trim.step(connection):
            pass
    assert [each[1] for each in await kept(fleet)] == ["young"]


async def test_nobody_can_have_it_forgotten_sooner_than_after_thirty_days(fleet: Fleet) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="control_denied_kept_range"):
        await fleet.sql.execute("update control set denied_kept = interval '1 day'")


async def test_the_newest_are_listed_first(fleet: Fleet) -> None:
    denials = Denials(fleet.connections.readers, rows=5)
    for address in ("first", "second"):
        denials.count("", address, GET, UNKNOWN)
        await denials.write()
    async with fleet.connections.readers.use() as connection:
        assert [each.address for each in await denied.lately(connection, 1)] == ["second"]
