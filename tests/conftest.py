"""Real PostgreSQL for all: one server a session, one migrated template, a copy of it for each test.

In this order: IM_TEST_DATABASE_URL (a superuser's), the embedded binaries (or those in IM_POSTGRES_BIN), and on
request `--db=docker`.
"""

import os

# a child that is started as another account is forked, and gRPC's handlers crash it now and then before its exec;
# gRPC looks when it is imported
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest

from manager.embedded import start
from manager.repository import migrations
from manager.server import Serving, serve
from manager.settings import Settings

# how long an example takes is the machine's affair
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

TEMPLATE = "im_template"
SERVER, PASSWORD = "im_server", "im-test-only"
# false: the whole suite does without LISTEN and NOTIFY
NOTIFY = Settings().notify


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--db", choices=["embedded", "docker"], default="embedded", help="where PostgreSQL comes from")


def at(url: str, *, database: str, user: str = "", password: str = "") -> str:
    """The same server by another name: another database, or another role."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{user}:{password}@{host}" if user else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))


@dataclass(frozen=True)
class Database:
    """A migrated database: `url` as the server role, `admin` as a superuser."""

    name: str
    url: str
    admin: str

    async def run(self, statement: str, *arguments: object) -> list[Any]:
        """Rows of a statement, as a superuser."""
        connection = await asyncpg.connect(self.admin)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    async def value(self, statement: str, *arguments: object) -> Any:
        """The one value of a statement, as a superuser."""
        return (await self.run(statement, *arguments))[0][0]


def addressed(url: str) -> Database:
    """The database at a superuser's address, where the server's role has the suite's password."""
    name = url.rpartition("/")[2]
    return Database(name, at(url, database=name, user=SERVER, password=PASSWORD), url)


async def admitted(url: str) -> Database:
    """The same, once it has."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"alter role {SERVER} login password '{PASSWORD}'")
    await connection.close()
    return addressed(url)


@contextmanager
def _in_memory() -> Iterator[None]:
    """Has temporary folders made in memory, where there is room: copying a database takes a tenth of the time."""
    memory = Path("/dev/shm")
    before = tempfile.tempdir
    usable = os.access(memory, os.W_OK) and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    if usable and shutil.disk_usage(memory).free > 6 * 2**30:
        tempfile.tempdir = str(memory)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _docker() -> Iterator[str]:
    # its constructor talks to Docker already, so it is imported and built only where Docker was asked for
    from testcontainers.community.postgres import PostgresContainer

    with PostgresContainer("postgres:18", driver=None) as container:
        yield str(container.get_connection_url())


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    """A superuser's address of a PostgreSQL for this session alone."""
    if given := os.environ.get("IM_TEST_DATABASE_URL"):
        yield given
    elif request.config.getoption("--db") == "docker":
        yield from _docker()
    else:
        chosen = os.environ.get("IM_POSTGRES_BIN")
        with _in_memory():
            postgres = start(bin_dir=Path(chosen) if chosen else None, ephemeral=True, durable=False)
        with postgres:
            yield postgres.url()


async def _recreate(cluster: str, name: str, *options: str) -> None:
    connection = await asyncpg.connect(cluster)
    try:
        await connection.execute(f'drop database if exists "{name}" with (force)')
        await connection.execute(" ".join([f'create database "{name}"', *options]))
    finally:
        await connection.close()


async def _barred(cluster: str, name: str) -> None:
    """As migrating bars it: what a database grants to everybody does not come along with a template."""
    connection = await asyncpg.connect(cluster)
    await connection.execute(f'revoke temporary on database "{name}" from public')
    await connection.close()


@pytest.fixture(scope="session")
async def template(cluster: str) -> str:
    """The name of a migrated database, which nobody is connected to."""
    await _recreate(cluster, TEMPLATE)
    await migrations.upgrade(at(cluster, database=TEMPLATE))
    await admitted(cluster)
    return TEMPLATE


numbers = count(1)


@pytest.fixture
async def database(cluster: str, template: str) -> AsyncIterator[Database]:
    """A migrated database of this test's own."""
    name = f"im_test_{os.getpid()}_{next(numbers)}"
    await _recreate(cluster, name, f"template {template} strategy file_copy")
    await _barred(cluster, name)
    yield addressed(at(cluster, database=name))
    connection = await asyncpg.connect(cluster)
    await connection.execute(f'drop database if exists "{name}" with (force)')
    await connection.close()


@pytest.fixture
def settings(database: Database) -> Settings:
    """Served on a free port of 127.0.0.1, with a reaper that does not come by itself."""
    return Settings(
        database_url=database.url,
        bind=("127.0.0.1",),
        port=0,
        reaper_interval=timedelta(seconds=60),
        flush_interval=timedelta(milliseconds=50),
        drain=timedelta(milliseconds=200),
    )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Serving]:
    """A manager in this process, on real sockets."""
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(settings, stop, started.set_result))
    await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield started.result()
    finally:
        stop.set()
        await task


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Serving]:
    """A manager on this test's database."""
    async with serving(settings) as started:
        yield started
