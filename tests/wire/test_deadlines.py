"""How long a single call may take, over gRPC and over HTTP, and what becomes of its work when it took too long."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import asyncpg
import pytest
from grpc import StatusCode, aio

from manager.ids import new_id
from manager.pb import instance_manager_pb2 as pb
from manager.pb.instance_manager_pb2_grpc import GetServiceStub, SubscribeServiceStub, TryServiceStub
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.wire.asker import ask, call
from tests.wire.caller import VERSION, calling, refusal
from tests.wire.fleet import Fleet, description, request

SHORT = timedelta(milliseconds=300)
SOON = 3.0  # before a lock that is waited for is given up by itself


@asynccontextmanager
async def held(database: Database, statement: str) -> AsyncIterator[None]:
    """While in here, somebody else's transaction has done this."""
    connection = await asyncpg.connect(database.admin)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


LOCKED = "lock table instance in access exclusive mode"
TURN = "select pg_advisory_xact_lock(4711, 1)"


@asynccontextmanager
async def hurried(settings: Settings, database: Database, **limits: timedelta) -> AsyncIterator[Fleet]:
    """A manager with such limits, alone in its fleet."""
    async with serving(settings.model_copy(update=limits)) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(database, started, caller)
        await fleet.alone()
        yield fleet


async def waiting(database: Database, name: str, *, some: bool) -> None:
    """Returns as soon as connections of that name wait for a lock, or none does any more."""
    asked = """
        select count(*) > 0 from pg_stat_activity
        where datname = current_database() and application_name = 'instance-manager ' || $1 and wait_event_type = 'Lock'
    """
    async with asyncio.timeout(SOON):
        while await database.value(asked, name) != some:
            await asyncio.sleep(0.02)


CALLS: Mapping[str, Callable[[aio.Channel], Awaitable[object]]] = {
    "GetInstance": lambda channel: GetServiceStub(channel).GetInstance(request(str(new_id())), metadata=VERSION),
    "GetAllInstances": lambda channel: GetServiceStub(channel).GetAllInstances(pb.InstanceFilter(), metadata=VERSION),
    "TryAddInstance": lambda channel: TryServiceStub(channel).TryAddInstance(description(), metadata=VERSION),
    "TryHealthCheck": lambda channel: TryServiceStub(channel).TryHealthCheck(request(str(new_id())), metadata=VERSION),
}


async def test_calls_that_name_no_deadline_have_the_default_one(settings: Settings, database: Database) -> None:
    async with hurried(settings, database, deadline=SHORT) as fleet:
        async with held(database, LOCKED), aio.insecure_channel(fleet.serving.addresses[0]) as channel:
            begun = monotonic()
            ends = await asyncio.gather(*(refusal(each(channel)) for each in CALLS.values()))
        assert [each.code for each in ends] == [StatusCode.DEADLINE_EXCEEDED] * len(CALLS)
        assert SHORT.total_seconds() <= monotonic() - begun < SOON
        shown = (await ask(fleet.serving.http[0], "/metrics")).text
        assert 'code="DEADLINE_EXCEEDED",method="GetAllInstances"' in shown


async def test_no_deadline_is_longer_than_the_longest(settings: Settings, database: Database) -> None:
    async with hurried(settings, database, deadline_most=SHORT) as fleet, held(database, LOCKED):
        begun = monotonic()
        ended = await refusal(fleet.caller.gets.GetAllInstances(pb.InstanceFilter(), timeout=30))
    assert ended.code is StatusCode.DEADLINE_EXCEEDED
    assert monotonic() - begun < SOON


async def test_a_client_may_name_a_longer_deadline_than_the_default(settings: Settings, database: Database) -> None:
    async with hurried(settings, database, deadline=timedelta(milliseconds=100)) as fleet:
        async with held(database, LOCKED):
            asked = asyncio.ensure_future(fleet.caller.gets.GetAllInstances(pb.InstanceFilter(), timeout=10))
            await asyncio.sleep(1)
        assert len((await asked).instances) == 1


async def test_a_stream_has_no_deadline(settings: Settings, database: Database) -> None:
    limits = {"deadline": timedelta(milliseconds=100), "deadline_most": timedelta(milliseconds=100)}
    async with hurried(settings, database, **limits) as fleet:
        updates: Any = SubscribeServiceStub(fleet.caller.channel).SubscribeToInstanceUpdates(
            pb.SubscribeRequest(), metadata=VERSION
        )
        await updates.initial_metadata()
        await asyncio.sleep(1.5)
        added = await fleet.add()
        async with asyncio.timeout(SOON):
            assert (await updates.read()).instance_id == added
        updates.cancel()


async def test_a_read_that_took_too_long_ends_in_the_database_too(settings: Settings, database: Database) -> None:
    async with hurried(settings, database) as fleet, held(database, LOCKED):
        asked = asyncio.ensure_future(refusal(fleet.caller.gets.GetAllInstances(pb.InstanceFilter(), timeout=2)))
        await waiting(database, "reads", some=True)
        assert (await asked).code is StatusCode.DEADLINE_EXCEEDED
        await waiting(database, "reads", some=False)


async def test_what_waited_too_long_never_happens_and_what_had_begun_does(
    settings: Settings, database: Database
) -> None:
    async with hurried(settings, database, deadline=SHORT) as fleet:
        first, second = description(), description()
        async with held(database, TURN), aio.insecure_channel(fleet.serving.addresses[0]) as channel:
            tries = TryServiceStub(channel)
            begun = asyncio.ensure_future(refusal(tries.TryAddInstance(first, metadata=VERSION)))
            await waiting(database, "turns", some=True)
            late = await refusal(tries.TryAddInstance(second, metadata=VERSION))
            assert {late.code, (await begun).code} == {StatusCode.DEADLINE_EXCEEDED}
        await fleet.add()  # the turn after both
        known = await database.run(
            "select id from instance where id = any($1)", [first.instance_id, second.instance_id]
        )
    assert [str(each["id"]) for each in known] == [first.instance_id]


@pytest.mark.parametrize("named", [{}, {"connect_timeout_ms": "30000"}])
async def test_calls_over_http_have_deadlines_too(
    settings: Settings, database: Database, named: dict[str, str]
) -> None:
    async with hurried(settings, database, deadline=SHORT, deadline_most=SHORT) as fleet, held(database, LOCKED):
        begun = monotonic()
        answer = await call(fleet.serving.http[0], "GetService/GetAllInstances", {}, **named)
    assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
    assert monotonic() - begun < SOON
