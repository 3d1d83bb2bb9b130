"""Two managers on one database, and somebody who changes the fleet through either."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import asyncpg
import pytest

from manager import subscription
from manager.domain.filter import ResumeToken
from manager.settings import Settings
from manager.wire import encode
from tests.conftest import NOTIFY, PASSWORD, Database, at, serving
from tests.stream.plain import Fact, facts
from tests.stream.reader import Story, listening
from tests.stream.validators import Case
from tests.wire.caller import Caller, calling
from tests.wire.fleet import Fleet

numbers = count(1)


@dataclass(frozen=True)
class Managers:
    """Several managers on one database; the fleet is changed through the first."""

    database: Database
    addresses: tuple[str, ...]
    callers: tuple[Caller, ...]
    fleet: Fleet

    async def history(self) -> list[Fact]:
        """All events."""
        return await facts(self.database)

    async def case(self, story: Story, read_up_to: int = 0) -> Case:
        """What the validators judge."""
        return Case(story, await self.history(), read_up_to)

    async def rest(self, token: bytes, story: Story, upto: int, replica: int = 1) -> Story:
        """The same subscriber anew, from a token on, on another manager, until everything up to a revision came."""
        again = Story(story.request, bundled=story.bundled)
        async with listening(self.addresses[replica], again, token=token) as stream:
            await stream.until(upto)
        return again


async def beginning(database: Database) -> bytes:
    """A token after the first event of all."""
    (row,) = await database.run(
        "select h.epoch, e.revision, e.ordinal, e.nonce from event e cross join history_epoch h"
        " order by e.revision, e.ordinal, h.number limit 1"
    )
    return encode.resume_token(ResumeToken(*row))


@asynccontextmanager
async def managers_of(database: Database, settings: Settings, number: int) -> AsyncIterator[Managers]:
    """So many managers in this process."""
    async with AsyncExitStack() as stack:
        served = [await stack.enter_async_context(serving(settings)) for _ in range(number)]
        addresses = tuple(each.addresses[0] for each in served)
        callers = tuple([await stack.enter_async_context(calling(each)) for each in addresses])
        fleets = [Fleet(database, each, caller) for each, caller in zip(served, callers, strict=True)]
        for each in fleets:
            await each.alone()
        yield Managers(database, addresses, callers, fleets[0])


@asynccontextmanager
async def _shared(cluster: str, template: str, *, notify: bool) -> AsyncIterator[Managers]:
    """Two managers for the tests of a module, which come one after the other."""
    name = f"im_stream_{next(numbers)}"
    connection = await asyncpg.connect(cluster)
    await connection.execute(f"create database {name} template {template} strategy file_copy")
    database = Database(
        name, at(cluster, database=name, user="im_server", password=PASSWORD), at(cluster, database=name)
    )
    settings = Settings(
        database_url=database.url,
        bind=("127.0.0.1",),
        port=0,
        reaper_interval=timedelta(seconds=60),
        drain=timedelta(milliseconds=200),
        notify=notify and NOTIFY,
    )
    async with managers_of(database, settings, 2) as managers:
        yield managers
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


@pytest.fixture(scope="module")
async def managers(cluster: str, template: str) -> AsyncIterator[Managers]:
    async with _shared(cluster, template, notify=True) as started:
        yield started


@pytest.fixture(scope="module", params=["notified", "polling"])
async def either(request: pytest.FixtureRequest, cluster: str, template: str) -> AsyncIterator[Managers]:
    """Two managers, once with NOTIFY and once without."""
    async with _shared(cluster, template, notify=request.param == "notified") as started:
        yield started


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bookmark after every few events, so that tests need not wait for one."""
    monkeypatch.setattr(subscription, "BOOKMARK_EVERY", 0.0)
