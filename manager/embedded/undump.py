"""A dump, brought back into a running server: made ready under another name, and then given its own."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from manager.embedded import binaries
from manager.embedded.access import at_database
from manager.embedded.argument import without_password
from manager.embedded.backup import DUMP, ROLES, Backup, run
from manager.embedded.errors import EmbeddedPostgresError
from manager.embedded.recovery import left

DRAFT, ASIDE = "_restoring", "_before_"
STAMP = "%Y%m%dt%H%M%Sz"
PATIENCE = 10.0

EXISTS = "select true from pg_database where datname = $1"
HOLDS = "select true from pg_class c where c.relnamespace = 'public'::regnamespace limit 1"


@dataclass(frozen=True, slots=True)
class Into:
    """A database of a running server, by a superuser's address of that server."""

    url: str
    database: str

    @property
    def draft(self) -> str:
        return f"{self.database}{DRAFT}"

    @property
    def aside(self) -> str:
        return f"{self.database}{ASIDE}{datetime.now(UTC).strftime(STAMP)}"

    def address(self, database: str) -> str:
        """The same server, another database."""
        return at_database(self.url, database)


async def occupied(into: Into) -> bool:
    """Whether there is such a database, with anything in it. Raises EmbeddedPostgresError where nobody can be asked."""
    if not await _value(into.address("postgres"), EXISTS, into.database):
        return False
    return bool(await _value(into.address(into.database), HOLDS))


def fill(into: Into, dump: Backup, bin_dir: Path | None) -> None:
    """Brings the dump's roles back, those that are there excepted, and its database under the draft's name."""
    tools = binaries.find(bin_dir).folder
    address, environment = without_password(into.address("postgres"))
    run([str(tools / "psql"), "--quiet", "--no-psqlrc", f"--file={dump.path / ROLES}", address], environment)
    address, environment = without_password(into.address(into.draft))
    how = ("--exit-on-error", "--no-password")
    run([str(tools / "pg_restore"), f"--dbname={address}", *how, str(dump.path / DUMP)], environment)


async def make_draft(into: Into) -> None:
    """An empty database for it; what an earlier attempt has left goes."""
    await _run(into, "drop database if exists %I", into.draft)
    await _run(into, "create database %I template template0", into.draft)


async def take_place(into: Into) -> str | None:
    """Gives the draft its name; the name that the present database has now, if there was one."""
    aside = into.aside if await occupied(into) else None
    if aside:
        await _run(into, "alter database %I rename to %I", into.database, aside)
    else:
        await _run(into, "drop database if exists %I", into.database)
    await _run(into, "alter database %I rename to %I", into.draft, into.database)
    return aside


async def note(into: Into, reason: str) -> int | None:
    """Leaves word of why its history is another one; the newest revision, None where no fleet is in it."""
    return await left(await _connect(into.address(into.draft)), reason)


async def _run(into: Into, statement: str, *names: str) -> None:
    connection = await _connect(into.address("postgres"))
    try:
        await connection.execute(await connection.fetchval("select format($1, variadic $2::text[])", statement, names))
    except asyncpg.ObjectInUseError:
        raise EmbeddedPostgresError(
            f"{into.database} is in use: stop the managers first, and all others on it."
        ) from None
    except asyncpg.PostgresError as error:
        raise EmbeddedPostgresError(f"The database cannot be brought back: {error}.") from None
    finally:
        await connection.close(timeout=PATIENCE)


async def _value(url: str, question: str, *arguments: object) -> object:
    connection = await _connect(url)
    try:
        return await connection.fetchval(question, *arguments)
    finally:
        await connection.close(timeout=PATIENCE)


async def _connect(url: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(url, timeout=PATIENCE)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise EmbeddedPostgresError(f"The server cannot be used: {error or 'it does not answer'}.") from None
