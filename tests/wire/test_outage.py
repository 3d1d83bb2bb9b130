"""PostgreSQL killed under a manager: nobody is told to die, everybody to come again, and what was promised is there."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from manager.embedded import Postgres, start
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id
from manager.repository import migrations
from manager.settings import Settings
from tests.conftest import Database, serving
from tests.faults.trees import freeze, thaw
from tests.wire.caller import METHODS, Refused, calling, outcome, path, singly
from tests.wire.fleet import Fleet, complete, description, done, request

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
BACK_WITHIN = 10.0
ANSWERED_WITHIN = 6.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server that may be killed."""
    with start(ephemeral=True) as postgres:
        yield postgres


@pytest.fixture
async def frail(postgres: Postgres) -> AsyncIterator[Fleet]:
    """A manager on that server."""
    name = f"im_{new_id().hex}"
    await postgres.create_database(name)
    await migrations.upgrade(postgres.url(database=name))
    await postgres.grant_login("im_server")
    database = Database(name, postgres.url("im_server", name), postgres.url(database=name))
    settings = Settings(
        database_url=database.url,
        bind=("127.0.0.1",),
        port=0,
        reaper_interval=timedelta(milliseconds=200),
        flush_interval=timedelta(milliseconds=50),
        drain=timedelta(milliseconds=200),
    )
    async with serving(settings) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(database, started, caller)
        await fleet.alone()
        yield fleet


def kill(postgres: Postgres) -> None:
    """As the kernel does it when memory is short."""
    os.kill(postgres.process.pid, signal.SIGKILL)


async def until(true: Callable[[], Awaitable[bool]], within: float) -> None:
    """Returns once it is true."""
    async with asyncio.timeout(within):
        while not await true():
            await asyncio.sleep(0.05)


async def away(fleet: Fleet) -> bool:
    """Whether the database is known to be gone: its last processes may still answer for a moment."""
    answer = await outcome(fleet.caller.tries.TryAddInstance(description()))
    return isinstance(answer, Refused) and answer.code == UNAVAILABLE


async def back(fleet: Fleet, instance: str) -> bool:
    """Whether a health check is answered, and with nothing but true."""
    answer = await outcome(fleet.caller.tries.TryHealthCheck(request(instance)))
    if isinstance(answer, Refused):
        assert answer.code == UNAVAILABLE
        return False
    assert answer == done()
    return True


async def shows(fleet: Fleet, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> bool:
    """Whether that is the health of the server as a whole."""
    health = health_pb2_grpc.HealthStub(fleet.caller.channel)
    return bool((await health.Check(health_pb2.HealthCheckRequest())).status == status)


async def test_without_the_database_every_call_is_to_come_again_and_with_it_all_is_as_before(
    frail: Fleet, postgres: Postgres
) -> None:
    one, other = await frail.chain(2)
    dead = await frail.add()
    revision = await frail.kill(dead)
    kill(postgres)
    await until(lambda: away(frail), ANSWERED_WITHIN)
    for method in METHODS:
        asked = frail.caller.ask(method, complete(method.input_type, one, other).SerializeToString())
        began = time.monotonic()
        answer = await singly(method, asked)
        if not method.name.startswith("Post"):
            assert isinstance(answer, Refused)
            assert (answer.code, len(answer.retries)) == (UNAVAILABLE, 1), path(method)
            assert answer.retries[0] > 0
        assert time.monotonic() - began < ANSWERED_WITHIN, path(method)
    await until(lambda: shows(frail, health_pb2.HealthCheckResponse.NOT_SERVING), ANSWERED_WITHIN)

    postgres.restart()
    began = time.monotonic()
    await until(lambda: back(frail, one), BACK_WITHIN)
    await until(lambda: shows(frail, health_pb2.HealthCheckResponse.SERVING), BACK_WITHIN)
    assert time.monotonic() - began < BACK_WITHIN
    assert (await frail.get(other)).parent_id == one
    assert await frail.kill(dead) == revision
    assert (await frail.get(await frail.add())).status == pb.STATUS_HEALTHY
    assert (await frail.get(frail.serving.instance_id)).status == pb.STATUS_HEALTHY
    await until(lambda: posted(frail, one), BACK_WITHIN)


async def posted(fleet: Fleet, instance: str) -> bool:
    """Whether the metrics that came while the database was away were kept for it."""
    return not isinstance(await outcome(fleet.caller.gets.GetLlmMetrics(request(instance))), Refused)


async def test_calls_under_way_when_the_database_dies_are_done_or_unknown_and_what_is_done_stays(
    frail: Fleet, postgres: Postgres
) -> None:
    answers: dict[str, pb.Bool | None] = {}

    async def add_on() -> None:
        while None not in answers.values():
            sent = description()
            answer = await outcome(frail.caller.tries.TryAddInstance(sent))
            answers[sent.instance_id] = None if isinstance(answer, Refused) else answer
            assert not isinstance(answer, Refused) or answer.code == UNAVAILABLE

    adding = [asyncio.ensure_future(add_on()) for _ in range(20)]
    await until(lambda: enough(answers), ANSWERED_WITHIN)
    kill(postgres)
    await asyncio.gather(*adding)
    postgres.restart()
    await until(lambda: back(frail, frail.serving.instance_id), BACK_WITHIN)
    for instance, answer in answers.items():
        again = await frail.caller.tries.TryAddInstance(description(instance))
        assert again.value
        assert answer in (None, again)
    revisions = [row["revision"] for row in await frail.database.run("select distinct revision from event order by 1")]
    assert revisions == list(range(1, len(revisions) + 1))


async def test_a_manager_ends_though_its_database_says_nothing_any_more(frail: Fleet, postgres: Postgres) -> None:
    """Neither refused nor answered, as behind a network that swallows everything: nothing tells it that it is so."""
    settings = Settings(database_url=frail.database.url, bind=("127.0.0.1",), port=0, drain=timedelta(milliseconds=200))
    try:
        async with asyncio.timeout(20), serving(settings):
            await freeze(postgres.process.pid)
            began = time.monotonic()
        assert time.monotonic() - began < 12
    finally:
        thaw(postgres.process.pid)


async def enough(answers: dict[str, pb.Bool | None]) -> bool:
    return len(answers) > 50
