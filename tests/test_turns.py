"""Turns: whatever fails, each call gets its own answer, and the next one works."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from manager.domain.calls import Kill, Outcome, Registration
from manager.domain.instance import InstanceType
from manager.domain.refusals import ChildOfManager, Exhausted, Unavailable
from manager.presence import new_id
from manager.turns import Turns
from tests.conftest import Database
from tests.fleet import POLICY, Fleet, S, fleet_of

TERMINATE = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where application_name = 'instance-manager turns' and datname = $1"""
BLOCKED = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with fleet_of(database) as one:
        yield one


def registration(hostname: str = "") -> Registration:
    return Registration(new_id(), InstanceType.CHROME_BROWSER, hostname)


async def until_blocked(fleet: Fleet) -> None:
    """Until a turn waits for what the test holds."""
    while not await fleet.value(BLOCKED):
        await asyncio.sleep(0.005)


async def test_one_poisonous_call_fails_alone(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    # no client can send it: what decode refuses stands for a fault that it would let pass
    good, poison, also_good = registration(), registration("a" * 254), registration()
    answers = await fleet.answers(good, poison, also_good)
    assert answers[0] == Outcome.done(1)
    assert isinstance(answers[1], Exception)
    assert answers[2] == Outcome.done(2)
    assert await fleet.living() == {good.id, also_good.id}


async def test_a_refusal_of_one_leaves_the_others_in_their_turn(fleet: Fleet) -> None:
    manager = Registration(new_id(), InstanceType.INSTANCE_MANAGER, labels={"instance-manager/version": "1"})
    child = Registration(new_id(), InstanceType.CHROME_BROWSER, parent=manager.id)
    answers = await fleet.answers(manager, child, registration())
    assert answers[0] == Outcome.done(1)
    assert isinstance(answers[1], ChildOfManager)
    assert answers[2] == Outcome.done(2)
    assert await fleet.value("select count(distinct xid) from event") == 1


async def test_a_connection_killed_in_a_turn_is_unavailable_to_all_and_the_next_call_works(
    fleet: Fleet, database: Database
) -> None:
    calls = [registration() for _ in range(3)]
    await fleet.add()
    async with fleet.sql.transaction():
        await fleet.sql.execute("lock table instance in share mode")
        waiting = asyncio.create_task(fleet.answers(*calls))
        async with asyncio.timeout(5):
            await until_blocked(fleet)
        await fleet.sql.execute(TERMINATE, database.name)
    assert [type(answer) for answer in await waiting] == [Unavailable] * 3
    assert await fleet.do(*calls) == [Outcome.done(revision) for revision in (2, 3, 4)]


async def test_a_connection_killed_between_turns_costs_one_unavailable_at_most(
    fleet: Fleet, database: Database
) -> None:
    await fleet.add()
    await fleet.sql.execute(TERMINATE, database.name)
    call = registration()
    (answer,) = await fleet.answers(call)
    assert isinstance(answer, Unavailable) or answer == Outcome.done(2)
    assert await fleet.do(call) == [Outcome.done(2)]


@asynccontextmanager
async def cutting_at_commit(url: str) -> AsyncIterator[str]:
    """The address of a wire to the server that is cut between a commit and its answer, once."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    to_cut = 1

    async def carry(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        nonlocal to_cut
        server, to_server = await asyncio.open_connection(host, port)

        async def back() -> None:
            while (piece := await server.read(65536)) and not cut.is_set():
                to_client.write(piece)
            to_client.close()

        cut = asyncio.Event()
        backwards = asyncio.create_task(back())
        while piece := await client.read(65536):
            if piece.endswith(b"commit\0") and to_cut:
                to_cut -= 1
                cut.set()
            to_server.write(piece)
        await backwards
        to_server.close()

    wire = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with wire:
        yield url.replace(f":{port}/", f":{wire.sockets[0].getsockname()[1]}/")


async def test_a_commit_whose_answer_was_lost_is_unavailable_and_its_repeat_gives_the_first_answer(
    fleet: Fleet, database: Database
) -> None:
    await fleet.add()
    call = registration()
    async with (
        cutting_at_commit(database.url) as url,
        fleet_of(replace(database, url=url)) as beyond,
    ):
        (answer,) = await beyond.answers(call)
        assert isinstance(answer, Unavailable)
        assert call.id in await fleet.living(), "it was committed"
        assert await beyond.do(call) == await fleet.do(call) == [Outcome.done(2)]
    assert await fleet.head() == 2


async def test_a_cancelled_waiter_does_not_cancel_its_turn(fleet: Fleet) -> None:
    await fleet.add()
    one, two = registration(), registration()
    async with fleet.sql.transaction():
        await fleet.sql.execute("lock table instance in share mode")
        first, second = (asyncio.create_task(fleet.turns.submit(each)) for each in (one, two))
        async with asyncio.timeout(5):
            await until_blocked(fleet)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    assert await second == Outcome.done(3)
    assert {one.id, two.id} <= await fleet.living()


async def test_a_call_cancelled_while_it_waits_for_its_turn_never_happens(fleet: Fleet) -> None:
    await fleet.add()
    running, given_up = registration(), registration()
    async with fleet.sql.transaction():
        await fleet.sql.execute("lock table instance in share mode")
        first = asyncio.create_task(fleet.turns.submit(running))
        async with asyncio.timeout(5):
            await until_blocked(fleet)
        waiting = asyncio.create_task(fleet.turns.submit(given_up))
        await asyncio.sleep(0)
        waiting.cancel()
    await first
    await fleet.add()
    assert given_up.id not in await fleet.living()


async def test_a_full_queue_refuses_and_says_when_to_come_again(fleet: Fleet) -> None:
    turns = Turns(fleet.connections.turns, POLICY, linger=0 * S, size=10, queue=2)
    waiting = [asyncio.create_task(turns.submit(registration())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Exhausted) as full:
        await turns.submit(registration())
    assert full.value.retry == timedelta(seconds=1)
    serving = asyncio.create_task(turns.lane.serve())
    assert [(await each).reason for each in waiting] == [None, None]
    turns.lane.close()
    await serving


async def test_a_closed_lane_serves_those_that_wait_and_takes_no_more(fleet: Fleet) -> None:
    turns = Turns(fleet.connections.turns, POLICY, linger=0 * S, size=1, queue=20)
    waiting = [asyncio.create_task(turns.submit(registration())) for _ in range(5)]
    await asyncio.sleep(0)
    turns.lane.close()
    with pytest.raises(Unavailable, match="stopping"):
        await turns.submit(registration())
    await turns.lane.serve()
    assert sorted([(await each).revision for each in waiting]) == [1, 2, 3, 4, 5]


async def test_a_deadlock_is_only_a_reason_to_try_again(fleet: Fleet) -> None:
    root = await fleet.add()
    await fleet.sql.execute("""
        create sequence tries;
        grant usage on sequence tries to im_server;
        create function deadlock() returns trigger language plpgsql as
        $$ begin
            if nextval('tries') <= 2 then raise exception sqlstate '40P01'; end if;
            return null;
        end $$;
        create trigger deadlock after delete on heartbeat for each row execute function deadlock()""")
    assert await fleet.kill(root) == Outcome.done(2)


async def test_a_kill_that_takes_too_long_says_to_kill_the_children_first(fleet: Fleet) -> None:
    root, other_root = await fleet.add(), await fleet.add()
    await fleet.sql.execute("""
        create function dawdle() returns trigger language plpgsql as
        $$ begin perform pg_sleep(0.3); return null; end $$;
        create trigger dawdle after delete on heartbeat for each row execute function dawdle()""")
    async with fleet.connections.turns.use() as connection:
        await connection.exec_driver_sql("set statement_timeout = '100ms'")
        await connection.commit()
    answers = await fleet.answers(Kill(root), Kill(other_root), registration())
    assert [type(answer) for answer in answers] == [Exhausted, Exhausted, Outcome]
    assert "kill its children first" in str(answers[0])
    assert {root, other_root} < await fleet.living()


async def test_a_database_that_is_away_is_unavailable_and_comes_back_by_itself(
    fleet: Fleet, database: Database, cluster: str
) -> None:
    await fleet.add()
    outside = await asyncpg.connect(cluster)
    await outside.execute(f'alter database "{database.name}" allow_connections false')
    await outside.execute(TERMINATE, database.name)
    call = registration()
    refused = await fleet.answers(call)
    refused = await fleet.answers(call)
    assert isinstance(refused[0], Unavailable)
    await outside.execute(f'alter database "{database.name}" allow_connections true')
    await outside.close()
    assert await fleet.do(call) == [Outcome.done(2)]


async def test_a_read_only_server_is_unavailable(fleet: Fleet, database: Database) -> None:
    """As a primary that was told to take no more writes, before it hands over."""
    await fleet.sql.execute(f'alter database "{database.name}" set default_transaction_read_only = on')
    answers = await fleet.answers(registration())
    assert [type(answer) for answer in answers] == [Unavailable]
