"""A PostgreSQL of a test's own, to be broken.

async with started(settings={"wal_level": "logical"}) as server:
    database = await migrated(server)
    await server.kill9()
    await server.start()
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import asyncpg

from manager.embedded import binaries
from manager.embedded.account import Account
from manager.embedded.cluster import initdb_command
from manager.repository import migrations
from tests.conftest import PASSWORD, Database, admitted
from tests.faults.server import NAME, Server, free_port, place, served


@asynccontextmanager
async def started(
    *,
    settings: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    initdb: Sequence[str] = (),
    bin_dir: Path | None = None,
) -> AsyncIterator[Server]:
    """An empty server with PostgreSQL's own, durable settings except for those given; gone when left."""
    account = Account.for_data(None)
    with place(account) as folder:
        found = binaries.reachable(binaries.find(bin_dir or _chosen()), account, folder / "binaries")
        server = Server(account, found, folder, free_port(), dict(settings or {}), dict(env or {}))
        await _initialize(server, initdb)
        async with served(server):
            yield server


def _chosen() -> Path | None:
    chosen = os.environ.get("IM_POSTGRES_BIN")
    return Path(chosen) if chosen else None


async def _initialize(server: Server, options: Sequence[str]) -> None:
    password = server.folder / "password"
    password.write_text(PASSWORD)
    server.account.own(password)
    command = [*initdb_command(server.binaries, server.data, password), "--no-sync", *options]
    code, printed = await asyncio.to_thread(server.account.run, *command)
    assert code == 0, printed


async def migrated(server: Server) -> Database:
    """A database with the schema, in which the server's role may log in."""
    await server.value(f"create database {NAME}")
    await migrations.upgrade(server.url(NAME))
    return await admitted(server.url(NAME))


VICTIMS = """
    select pid from pg_stat_activity
    where backend_type = 'client backend' and pid <> pg_backend_pid() order by backend_start, pid
"""


async def terminate_backends(server: Server, *, rate: float, seconds: float, seed: int = 0) -> int:
    """Terminates a random session, `rate` times a second, for so long; how many it were."""
    chance, terminated = random.Random(seed), 0
    connection = await asyncpg.connect(server.url())
    until = monotonic() + seconds
    try:
        while monotonic() < until:
            pids = [row["pid"] for row in await connection.fetch(VICTIMS)]
            if pids:
                terminated += await connection.fetchval("select pg_terminate_backend($1)::int", chance.choice(pids))
            await asyncio.sleep(1 / rate)
    finally:
        await connection.close()
    return terminated
