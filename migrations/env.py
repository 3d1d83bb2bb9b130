"""Runs the migrations: on the connection of manager/repository/migrating.py, or as SQL for somebody to read."""

import asyncio
import os
import re

from alembic import context
from sqlalchemy import Connection

from manager.repository import migrating, roles
from manager.repository.schema import metadata

PARTITION = re.compile(r"_\d{8}$")
GIVEN = context.config.attributes


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions come and go by themselves; the schema holds their parents alone."""
    return not (kind == "table" and name is not None and PARTITION.search(name))


def run(connection: Connection) -> None:
    """Migrates on this connection, or looks what would be to do; tells which version the database has then."""
    migrating.begin(connection)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        include_name=include_name,
        compare_server_default=True,
        on_version_apply=migrating.heed_older,
    )
    here = context.get_context()
    GIVEN["reached"] = here.get_current_revision()
    GIVEN["ahead"] = GIVEN["reached"] not in (None, *(each.revision for each in context.script.walk_revisions()))
    connection.rollback()
    if GIVEN["ahead"]:
        return  # a later release's, which has no need of this one's
    if GIVEN.get("down"):
        migrating.heed_newer(connection, GIVEN["release"])
    with migrating.unobstructed(connection), context.begin_transaction():
        context.run_migrations()
    GIVEN["reached"] = here.get_current_revision()
    connection.commit()


async def online() -> None:
    """Migrates DATABASE_URL, or the address handed over in the configuration."""
    engine = migrating.engine(GIVEN.get("url") or os.environ["DATABASE_URL"])
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


def offline() -> None:
    """Writes what would be run."""
    # asyncpg's dialect, since those of other drivers write each `%` twice
    context.configure(dialect_name="postgresql+asyncpg", transaction_per_migration=True)
    for name in ("lock_timeout", "statement_timeout"):
        context.execute(f"set {name} = {migrating.SESSION[name]}")
    for statement in roles.SET:
        context.execute(statement)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
