"""Managers on real sockets: one for the tests of a module, and one for a single test where it matters."""

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count
from typing import Any

import asyncpg
import pytest

from manager.domain.principal import Role
from manager.pb.stats_service_pb2 import Stats, StatsUploadRequest
from manager.server import Serving
from manager.settings import Settings, Transport
from manager.wire.transport import usual
from tests.conftest import PASSWORD, Database, at, serving
from tests.credentials import bearing, granted
from tests.wire.caller import VERSION, calling
from tests.wire.fleet import Fleet
from tests.wire.guarded import Guarded

numbers = count(1)

# where it is the wire that is tested, it is tested on both transports; elsewhere on the one that the suite runs on
OVER_BOTH = {"test_batches", "test_interceptors", "test_listener", "test_other_toolchains", "test_rights"}
OVER_BOTH |= {"test_authority", "test_deadlines", "test_denied", "test_limits", "test_quotas", "test_try_service"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transport" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in OVER_BOTH:
        metafunc.parametrize("transport", list(Transport), indirect=True, scope="module")


@pytest.fixture(scope="module")
def transport(request: pytest.FixtureRequest) -> Transport:
    """What carries the calls."""
    chosen: Transport | None = getattr(request, "param", Settings().transport)
    return chosen or usual()


@pytest.fixture(scope="module")
async def shared_database(cluster: str, template: str) -> AsyncIterator[Database]:
    """A migrated database for the tests of a module, each of which brings instances of its own."""
    name = f"im_wire_{os.getpid()}_{next(numbers)}"
    connection = await asyncpg.connect(cluster)
    await connection.execute(f"drop database if exists {name} with (force)")
    await connection.execute(f"create database {name} template {template} strategy file_copy")
    yield Database(name, at(cluster, database=name, user="im_server", password=PASSWORD), at(cluster, database=name))
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


def hasty(database: Database, transport: Transport, **more: Any) -> Settings:
    """No reaper that comes by itself, metrics at once, and no long goodbye."""
    return Settings(
        database_url=database.url,
        bind=("127.0.0.1",),
        port=0,
        reaper_interval=timedelta(seconds=60),
        flush_interval=timedelta(milliseconds=50),
        drain=timedelta(milliseconds=200),
        transport=transport,
        **more,
    )


@pytest.fixture(scope="module")
async def fleet(shared_database: Database, transport: Transport) -> AsyncIterator[Fleet]:
    """A manager for the tests of a module."""
    async with serving(hasty(shared_database, transport)) as started, calling(started.addresses[0]) as caller:
        fleet = Fleet(shared_database, started, caller)
        await fleet.alone()
        yield fleet


@pytest.fixture(scope="module")
async def guarded(shared_database: Database, transport: Transport) -> AsyncIterator[Guarded]:
    """A manager for the tests of a module."""
    settings = hasty(shared_database, transport, auth=True, reflection=True)
    tokens: dict[Role, str] = {role: await granted(shared_database, role) for role in Role if role is not Role.INSTANCE}
    metadata = (*VERSION, *bearing(tokens[Role.ADMIN]))
    async with serving(settings) as started, calling(started.addresses[0], metadata) as caller:
        fleet = Fleet(shared_database, started, caller)
        await fleet.alone()
        await caller.stats.UploadStats(StatsUploadRequest(hostname="host", stats=Stats(timestamp_ms=1)))
        yield Guarded(fleet, tokens)


@pytest.fixture
def settings(settings: Settings, transport: Transport) -> Settings:
    """The suite's, on that transport."""
    return settings.model_copy(update={"transport": transport})


@pytest.fixture
async def lone(database: Database, server: Serving) -> AsyncIterator[Fleet]:
    """A manager for one test alone."""
    async with calling(server.addresses[0]) as caller:
        fleet = Fleet(database, server, caller)
        await fleet.alone()
        yield fleet
