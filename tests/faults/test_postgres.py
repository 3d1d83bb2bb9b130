"""Each way to break PostgreSQL does what it says, and what was acknowledged outlasts those that must not cost it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import monotonic

import asyncpg
import pytest

from tests.faults.clock import clock
from tests.faults.copies import archived, caught_up, forgotten, promote, standby_of
from tests.faults.disk import failing_fsync, small_disk
from tests.faults.postgres import migrated, started, terminate_backends
from tests.faults.proxy import proxied
from tests.faults.server import LOST, Missing, NotStarted, Server
from tests.faults.toxics import Stall

MOMENT = 0.3  # seconds in which a server that can answer has long done so


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[Server]:
    """One for all tests that leave it as good as it was."""
    async with started() as one:
        await one.value("create table row (n int primary key)")
        yield one


@pytest.fixture
async def server(shared: Server) -> Server:
    """It runs, whatever a failed test has left of it."""
    if not shared.running:
        await shared.start()
    return shared


async def add(server: Server, number: int) -> int:
    """Commits a row, and says its number once it is acknowledged."""
    await server.value("insert into row values ($1)", number)
    return number


async def rows(server: Server) -> set[int]:
    found = await server.value("select array_agg(n) from row")
    return set(found or ())


async def test_a_migrated_server_lets_a_manager_in(server: Server) -> None:
    database = await migrated(server)
    assert server.database == database
    connection = await asyncpg.connect(database.url)
    assert await connection.fetchval("select count(*) from instance") == 0
    await connection.close()


@pytest.mark.parametrize("children", [True, False])
async def test_a_killed_server_comes_back_on_its_port_with_all_that_it_acknowledged(
    server: Server, children: bool
) -> None:
    port, number = server.port, await add(server, 1 + children)
    await server.kill9(children=children)
    assert not server.running
    with pytest.raises(OSError, match="Connect call failed"):
        await server.value("select 1")
    await server.start()
    assert server.port == port
    assert number in await rows(server)


async def test_a_frozen_server_does_not_answer_and_a_thawed_one_does(server: Server) -> None:
    connection = await asyncpg.connect(server.url())
    await server.freeze()
    asked = asyncio.ensure_future(connection.fetchval("select 1"))
    knocked = asyncio.ensure_future(asyncpg.connect(server.url()))
    await asyncio.sleep(MOMENT)
    assert not asked.done()
    assert not knocked.done()
    server.thaw()
    assert await asked == 1
    await (await knocked).close()
    await connection.close()


async def test_a_frozen_server_can_be_discarded(server: Server) -> None:
    await server.freeze()
    begun = monotonic()
    await server.discard()
    assert monotonic() - begun < 5
    assert not server.running
    await server.start()


async def test_sessions_are_terminated_at_a_rate(server: Server) -> None:
    connections = [await asyncpg.connect(server.url()) for _ in range(8)]
    assert 1 <= await terminate_backends(server, rate=20, seconds=0.25) <= 6
    lost = 0
    for each in connections:
        try:
            await each.fetchval("select 1")
        except LOST:
            lost += 1
        await each.close()
    assert 1 <= lost <= 6
    assert await server.value("select 1") == 1


async def test_a_flush_that_fails_costs_no_acknowledged_row(server: Server) -> None:
    before = await add(server, 10)
    connection = await asyncpg.connect(server.url())
    try:
        async with failing_fsync(server, connection.get_server_pid()):
            with pytest.raises(LOST):
                await connection.execute("insert into row values (11)")
    except Missing as missing:
        pytest.skip(str(missing))
    finally:
        connection.terminate()
    while not await answers(server):
        await asyncio.sleep(0.02)
    assert "PANIC" in server.said()
    assert before in await rows(server)
    assert await add(server, 12) in await rows(server)


async def test_where_every_flush_fails_the_server_is_to_be_started_anew(server: Server) -> None:
    before, panics = await add(server, 20), server.said().count("PANIC")
    try:
        async with failing_fsync(server):
            with pytest.raises(LOST):
                await add(server, 21)
            while server.running and server.said().count("PANIC") < panics + 2:
                await asyncio.sleep(0.02)
    except Missing as missing:
        pytest.skip(str(missing))
    assert not await answers(server)
    await server.kill9()
    await server.start()
    assert before in await rows(server)


async def answers(server: Server) -> bool:
    try:
        return bool(await server.value("select true"))
    except LOST:
        return False


async def test_a_full_disk_for_the_log_costs_no_acknowledged_row() -> None:
    try:
        with small_disk() as disk:
            async with started(settings=disk.settings, initdb=disk.initdb) as server:
                await server.value("create table row (n int primary key)")
                before = await add(server, 1)
                await disk.exhaust(server)
                with pytest.raises(LOST):
                    await add(server, 2)
                await server.kill9()
                with pytest.raises(NotStarted, match="No space left on device"):
                    await server.start()
                disk.free()
                await server.start()
                assert before in await rows(server)
                assert await add(server, 3) in await rows(server)
    except Missing as missing:
        pytest.skip(str(missing))


async def test_the_clock_steps_forth_and_back() -> None:
    try:
        with clock() as its:
            async with started(env=its.env) as server:
                connection = await asyncpg.connect(server.url())
                for offset in (0, 600, -3600, 0):
                    its.set(timedelta(seconds=offset))
                    now = await connection.fetchval("select clock_timestamp()")
                    assert abs((now - datetime.now(UTC)).total_seconds() - offset) < 1
                await connection.close()
    except Missing as missing:
        pytest.skip(str(missing))


async def test_a_promoted_synchronous_standby_holds_all_that_was_acknowledged(server: Server) -> None:
    async with standby_of(server, synchronous=True) as follower:
        acknowledged = {await add(server, number) for number in range(100, 150)}
        await server.kill9()
        await promote(follower)
        assert acknowledged <= await rows(follower)
        assert await add(follower, 150) in await rows(follower)
        await server.start()
        await forgotten(server)
        assert await add(server, 151) == 151


async def test_a_promoted_standby_lacks_what_did_not_reach_it_and_leaves_the_old_primary_writable(
    server: Server,
) -> None:
    async with proxied(server.address) as wire, standby_of(server, through=wire.address) as follower:
        reached = await add(server, 200)
        await caught_up(server, follower)
        wire.add(Stall())
        behind = await add(server, 201)
        await promote(follower)
        assert {reached, behind} & await rows(follower) == {reached}
        assert await add(follower, 202) == await add(server, 202)


async def test_a_point_in_time_comes_back_without_what_came_after_it(server: Server) -> None:
    async with archived(server) as archive:
        before = await add(server, 300)
        await archive.point("good")
        after = await add(server, 301)
        await archive.complete()
        async with archive.restored("good") as restored:
            assert {before, after} & await rows(restored) == {before}
            assert await add(restored, 302) == 302
        await server.kill9()
        async with archive.restored("good", port=server.port) as restored:
            assert restored.url() == server.url()
            assert {before, after} & await rows(restored) == {before}
