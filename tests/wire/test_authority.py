"""Open streams while nobody can say who was shut out: no message passes, and those that say nothing stay."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from grpc import aio

from manager import keyring
from manager.domain.principal import Role
from manager.pb import instance_manager_pb2 as pb
from manager.pb.instance_manager_pb2_grpc import SubscribeServiceStub
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.credentials import bearing, granted
from tests.wire.asker import live
from tests.wire.caller import VERSION, Refused, calling, outcome
from tests.wire.fleet import Fleet, description, request
from tests.wire.guarded import STREAMS, Code, checks_of, end_of, opened

TRUSTED = 1.0
UNSURE = 1.5  # after so long without an answer nobody is trusted
WITHIN = 10.0


@pytest.fixture
async def asking(settings: Settings, lone: Fleet, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    """A manager that asks who calls, and soon trusts nobody; beside `lone`, which asks nobody."""
    monkeypatch.setattr(keyring, "ASK_EVERY", 0.1)
    monkeypatch.setattr(keyring, "TRUSTED", TRUSTED)
    token = await granted(lone.database, Role.ADMIN)
    metadata = (*VERSION, *bearing(token))
    asked = settings.model_copy(update={"auth": True})
    async with serving(asked) as started, calling(started.addresses[0], metadata) as caller:
        fleet = Fleet(lone.database, started, caller)
        await fleet.alone()
        yield fleet


@asynccontextmanager
async def nobody_to_ask(database: Database) -> AsyncIterator[None]:
    """The table of tokens cannot be read for longer than anybody is trusted; all else of the database can."""
    connection = await asyncpg.connect(database.admin)
    try:
        async with connection.transaction():
            await connection.execute("lock table token in access exclusive mode")
            await asyncio.sleep(UNSURE)
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def away(database: Database) -> AsyncIterator[None]:
    """The whole database is."""
    await database.run("alter role im_server connection limit 0")
    try:
        await database.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'im_server'")
        yield
    finally:
        await database.run("alter role im_server connection limit -1")


async def done(call: Callable[[], Awaitable[Any]]) -> None:
    """Returns once a call is answered."""
    async with asyncio.timeout(WITHIN):
        while isinstance(await outcome(call()), Refused):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("name", [*STREAMS, "HealthChecks"])
async def test_no_message_passes_while_nobody_can_say_who_was_shut_out(asking: Fleet, lone: Fleet, name: str) -> None:
    token, about = await granted(lone.database, Role.ADMIN), await lone.add()
    async with opened(asking.serving.addresses[0], name, token, about) as call, nobody_to_ask(lone.database):
        unsaid = await lone.add()
        if name == "HealthChecks":
            await call.write(checks_of(about))
        heard: list[bytes] = []
        async with asyncio.timeout(WITHIN):
            assert await end_of(call, heard) is Code.UNAVAILABLE
    assert not [each for each in heard if unsaid.encode() in each or name == "HealthChecks"]
    await done(lambda: asking.caller.gets.GetInstance(request(unsaid)))


async def test_a_stream_that_ended_so_goes_on_where_it_was(asking: Fleet, lone: Fleet) -> None:
    metadata: Any = (*VERSION, *bearing(await granted(lone.database, Role.READER)))
    async with aio.insecure_channel(asking.serving.addresses[0]) as channel:
        subscribe: Any = SubscribeServiceStub(channel).SubscribeToInstanceUpdates
        call = subscribe(pb.SubscribeRequest(send_bookmarks=True), metadata=metadata)
        place = (await call.read()).resume_token
        async with nobody_to_ask(lone.database):
            unsaid = await lone.add()
            async with asyncio.timeout(WITHIN):
                assert await end_of(call) is Code.UNAVAILABLE
        await done(lambda: asking.caller.gets.GetInstance(request(unsaid)))
        call = subscribe(pb.SubscribeRequest(resume_token=place), metadata=metadata, timeout=WITHIN)
        assert (await call.read()).instance.instance_id == unsaid


async def test_a_stream_on_which_nothing_is_said_outlives_an_outage(asking: Fleet, lone: Fleet) -> None:
    metadata: Any = (*VERSION, *bearing(await granted(lone.database, Role.READER)))
    async with aio.insecure_channel(asking.serving.addresses[0]) as channel:
        subscribe: Any = SubscribeServiceStub(channel).SubscribeToInstanceUpdates
        call = subscribe(pb.SubscribeRequest(), metadata=metadata)
        await call.initial_metadata()
        before = await lone.add()
        assert (await call.read()).instance.instance_id == before  # it is under way
        async with away(lone.database):
            await asyncio.sleep(2 * UNSURE)
            assert isinstance(await outcome(asking.caller.gets.GetAllInstances(pb.InstanceFilter())), Refused)
        sent = description()
        await done(lambda: lone.caller.tries.TryAddInstance(sent))
        async with asyncio.timeout(WITHIN):
            assert (await call.read()).instance.instance_id == sent.instance_id


@pytest.mark.parametrize("name", [*STREAMS, "HealthChecks"])
async def test_a_token_expires_by_time_alone_though_the_database_is_away(asking: Fleet, lone: Fleet, name: str) -> None:
    about, token = await lone.add(), await granted(lone.database, Role.ADMIN, lasts=timedelta(seconds=2))
    async with opened(asking.serving.addresses[0], name, token, about) as call, away(lone.database):
        async with asyncio.timeout(3):
            assert await end_of(call) is Code.UNAUTHENTICATED


async def test_the_console_is_told_nothing_of_the_fleet_meanwhile(asking: Fleet, lone: Fleet) -> None:
    token = await granted(lone.database, Role.READER)
    async with live(asking.serving.http[0], authorization=f"Bearer {token}") as frames:
        async for each in frames:
            if each.kind == "state" and each.data["done"]:
                break
        async with nobody_to_ask(lone.database):
            await lone.add()
            async with asyncio.timeout(WITHIN):
                assert {each.kind async for each in frames} <= {"pulse"}
