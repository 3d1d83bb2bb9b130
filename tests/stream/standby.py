"""A PostgreSQL cluster of one's own with a standby, and dumps: what tests of epochs do to a database."""

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from manager.embedded import Postgres, binaries, start
from manager.embedded.account import Account
from manager.repository import migrations
from tests.conftest import PASSWORD, Database, at

NAME = "fleet"

# as many connections as the launcher gives a primary, or the standby does not start
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "max_connections": "200",
}


@contextmanager
def cluster() -> Iterator[Postgres]:
    """A primary, empty."""
    with start(None, ephemeral=True, durable=False) as postgres:
        yield postgres


async def migrated(postgres: Postgres) -> Database:
    """A database with the schema, in which the server's role may log in."""
    await postgres.create_database(NAME)
    await migrations.upgrade(postgres.url(database=NAME))
    return await admitted(postgres.url(database=NAME))


async def admitted(url: str) -> Database:
    """The database at a superuser's address, once the server's role has the suite's password."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"alter role im_server login password '{PASSWORD}'")
    await connection.close()
    return addressed(url)


def addressed(url: str) -> Database:
    name = url.rpartition("/")[2]
    return Database(name, at(url, database=name, user="im_server", password=PASSWORD), url)


@dataclass
class Standby:
    """A copy of a primary that follows it; `url` is the superuser's."""

    primary: Postgres
    port: int

    @property
    def url(self) -> str:
        return self.primary.url(database=NAME).replace(f":{self.primary.port}/", f":{self.port}/")

    async def lose_touch(self) -> None:
        """Hears of the primary no more."""
        await value(self.url, "alter system set primary_conninfo = ''")
        await value(self.url, "select pg_reload_conf()")
        while await value(self.url, "select count(*) from pg_stat_wal_receiver"):
            await asyncio.sleep(0.02)

    async def reaches(self, position: str) -> None:
        """Returns once it has replayed the primary's log up to there."""
        while not await value(self.url, f"select pg_last_wal_replay_lsn() >= '{position}'"):
            await asyncio.sleep(0.02)

    async def promote(self) -> Database:
        """Makes a primary of it."""
        assert await value(self.url, "select pg_promote()")
        return addressed(self.url)


async def position(database: Database) -> str:
    """How far the primary's log is written."""
    return str(await database.value("select pg_current_wal_flush_lsn()::text"))


async def value(url: str, statement: str) -> object:
    """The one value of a statement, as soon as somebody answers."""
    give_up = time.monotonic() + 20
    while True:
        try:
            connection = await asyncpg.connect(url)
        except (OSError, asyncpg.PostgresError):
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
        else:
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()


@contextmanager
def standby_of(primary: Postgres) -> Iterator[Standby]:
    """A standby of its own, by pg_basebackup."""
    account = Account.for_data(None)
    found = binaries.reachable(binaries.find(None), account, primary.data_dir / "binaries")
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as place:
        folder, port = Path(place) / "data", _free_port()
        account.own(Path(place))
        source = primary.url(database="postgres")
        backup = ("--pgdata", folder, "--dbname", source, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        code, printed = account.run(found.folder / "pg_basebackup", *backup)
        assert code == 0, printed
        process = run(account, found.postgres, folder, port)
        try:
            yield Standby(primary, port)
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(20)
            shutil.rmtree(folder, ignore_errors=True)


def run(account: Account, postgres: Path, folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """A server on that folder."""
    settings = {**SETTINGS, "port": str(port)}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return account.spawn([postgres, "-D", folder, *options], subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def dump(database: Database, into: Path) -> None:
    """All of it, as pg_dump writes it."""
    await _program("pg_dump", "--format=custom", f"--file={into}", database.admin)


async def restore(dumped: Path, url: str) -> Database:
    """A new database of that content at a superuser's address."""
    connection = await asyncpg.connect(at(url, database="postgres"))
    await connection.execute(f"create database {url.rpartition('/')[2]}")
    await connection.close()
    await _program("pg_restore", "--exit-on-error", f"--dbname={url}", str(dumped))
    return await admitted(url)


async def roles(source: str, target: str) -> None:
    """What no dump of one database holds."""
    connection = await asyncpg.connect(source)
    names = [
        row["rolname"] for row in await connection.fetch("select rolname from pg_roles where rolname like 'im\\_%'")
    ]
    await connection.close()
    connection = await asyncpg.connect(target)
    for name in names:
        await connection.execute(f"create role {name}")
    await connection.close()


async def _program(name: str, *arguments: str) -> None:
    program = binaries.find(None).folder / name
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
