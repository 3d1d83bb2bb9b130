"""Runs the migrations: one runner at a time, as the owner role, never waiting long for a lock."""

import asyncio
import os
import re

from alembic import context
from sqlalchemy import Connection, text

from manager.repository.database import engine_of
from manager.repository.schema import metadata

PARTITION = re.compile(r"_\d{8}$")

# Roles belong to the cluster: another database of it may have made them, and they outlive a downgrade.
PREPARE = (
    """
do $$
begin
    if not exists (select from pg_roles where rolname = 'im_owner') then
        create role im_owner nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'im_server') then
        create role im_server nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'im_auditor') then
        -- what it may see are grants; these keep a question that was asked carelessly from being everybody's burden
        create role im_auditor nologin connection limit 5;
        alter role im_auditor set search_path = audit, pg_catalog;
        alter role im_auditor set default_transaction_read_only = on;
        alter role im_auditor set statement_timeout = '30s';
        alter role im_auditor set lock_timeout = '2s';
        alter role im_auditor set idle_in_transaction_session_timeout = '30s';
        alter role im_auditor set max_parallel_workers_per_gather = 0;
        alter role im_auditor set jit = off;
    end if;
exception when duplicate_object or unique_violation then
    null;  -- another database of the cluster was migrated at the same moment
end $$""",
    "grant im_owner to current_user",
    "grant create, usage on schema public to im_owner",
    # so that the owner of the tables needs no right to make other schemas
    "create schema if not exists audit authorization im_owner",
)


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions come and go by themselves; the schema holds their parents alone."""
    return not (kind == "table" and name is not None and PARTITION.search(name))


def run(connection: Connection) -> None:
    """Migrates on this connection."""
    # session-wide, and gone with the connection: two runners take turns
    connection.execute(text("select pg_advisory_lock(4711, 2)"))
    for statement in PREPARE:
        connection.exec_driver_sql(statement)
    connection.execute(text("set role im_owner"))
    connection.execute(text("set lock_timeout = '2s'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        include_name=include_name,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


async def online() -> None:
    """Migrates DATABASE_URL, or the address handed over in the configuration."""
    url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]
    engine = engine_of(url, name="migrate", connections=1)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(online())
