"""What goes into a dump and comes out of it as another database."""

import asyncio
import subprocess
from pathlib import Path

import asyncpg

from manager.embedded import binaries
from tests.conftest import Database, admitted, at


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
