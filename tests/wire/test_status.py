"""Refusals to statuses: every one has its own, and says what helps."""

import asyncio
import importlib
import pkgutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import ModuleType

import asyncpg
import grpc
import pytest

import manager
from manager.domain.refusals import Refusal
from manager.domain.trail import Broken
from manager.pb import instance_manager_pb2 as pb
from manager.repository import database as connections
from manager.repository.migrating import Obstructed, SchemaInUse
from manager.repository.trim import NotYours
from manager.safety import Unsafe
from manager.settings import Settings
from manager.wire.ports import CannotListen
from manager.wire.status import STATUS_OF, status_of
from manager.wire.transport import NotInstalled
from tests.conftest import Database, serving
from tests.wire.caller import calling, outcome, refusal
from tests.wire.fleet import Fleet, description, request

# raised where there is nobody to answer: before a server serves, and by `imctl audit`, `admin` and `migrate`
NO_CALLER = {Broken, CannotListen, NotInstalled, NotYours, Obstructed, SchemaInUse, Unsafe}
APART = ("manager.__main__", "manager.cli", "manager.client", "manager.embedded", "manager.pb")


def kinds(of: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def modules() -> list[ModuleType]:
    """Every module of the server."""
    found = [each.name for each in pkgutil.walk_packages(manager.__path__, "manager.")]
    return [importlib.import_module(name) for name in found if not name.startswith(APART)]


def test_every_refusal_has_a_status() -> None:
    names = {module.__name__ for module in modules()}
    assert {kind for kind in kinds() if kind.__module__ in names} - NO_CALLER == set(STATUS_OF)


def test_no_refusal_is_kept_to_be_raised_twice() -> None:
    # every raise adds to an exception's traceback, and so keeps the call that it ended
    assert [
        (module.__name__, each)
        for module in modules()
        for each in vars(module).values()
        if isinstance(each, BaseException)
    ] == []


def test_an_error_that_is_no_refusal_is_internal_and_shows_nothing_of_itself() -> None:
    for error in (ValueError("secret"), KeyError("secret"), RuntimeError("select secret from /etc")):
        code, message, details = status_of(error)
        assert code == grpc.StatusCode.INTERNAL
        assert "secret" not in message
        assert b"secret" not in details


@asynccontextmanager
async def holding(database: Database, statement: str) -> AsyncIterator[None]:
    """A superuser who has run the statement in a transaction that stays open."""
    connection = await asyncpg.connect(database.admin)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


async def test_a_full_queue_says_when_to_come_again(settings: Settings, database: Database) -> None:
    small = settings.model_copy(update={"turn_queue": 3})
    async with serving(small) as started, calling(started.addresses[0]) as caller:
        await Fleet(database, started, caller).alone()
        async with holding(database, "select pg_advisory_xact_lock(4711, 1)"):
            calls = [asyncio.ensure_future(caller.tries.TryAddInstance(description())) for _ in range(20)]
            async with asyncio.timeout(4):
                # at most 3 travel together, and 3 wait behind them
                while sum(call.done() for call in calls) < 14:
                    await asyncio.sleep(0.01)
        answers = await asyncio.gather(*map(outcome, calls))
        refusals = [answer for answer in answers if not isinstance(answer, pb.Bool)]
        assert len(refusals) >= 14
        for answer in refusals:
            assert (answer.code, answer.retries) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [1.0])
        assert all(answer.value for answer in answers if isinstance(answer, pb.Bool))


async def test_a_kill_that_takes_too_long_says_what_to_do(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.SESSION, "statement_timeout", "1000")
    async with serving(settings) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(database, started, caller)
        instance = await fleet.add()
        async with holding(database, f"select from instance where id = '{instance}' for update"):
            answer = await refusal(caller.tries.TryKillInstance(pb.KillRequest(instance_id=instance)))
        assert answer.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "kill its children first" in answer.message
        assert (await fleet.get(instance)).status == pb.STATUS_HEALTHY
        assert await fleet.kill(instance)


async def test_a_read_that_takes_too_long_may_be_asked_again(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.SESSION, "statement_timeout", "1000")
    async with serving(settings) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(database, started, caller)
        instance = await fleet.add()
        async with holding(database, "lock table service in access exclusive mode"):
            answer = await refusal(caller.gets.GetInstance(request(instance)))
        assert (answer.code, answer.retries) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [5.0])
        assert (await fleet.get(instance)).instance_id == instance


async def test_a_lock_that_is_not_to_be_had_is_unavailable_and_never_a_false(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.SESSION, "lock_timeout", "50")
    quick = settings.model_copy(update={"drain": timedelta(seconds=0.1)})
    async with serving(quick) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(database, started, caller)
        instance = await fleet.add()
        async with holding(database, "lock table instance in access exclusive mode"):
            for call in (
                caller.tries.TryAddInstance(description()),
                caller.tries.TryKillInstance(pb.KillRequest(instance_id=instance)),
                caller.gets.GetInstance(request(instance)),
            ):
                answer = await refusal(call)
                assert (answer.code, len(answer.retries)) == (grpc.StatusCode.UNAVAILABLE, 1)
        assert (await caller.tries.TryHealthCheck(request(instance))).value
