"""The roles at their work: a migrator migrates, and who takes backups takes them; neither can do what is not theirs."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from manager.embedded.backup import Kind, take
from manager.repository import migrations
from tests.catalog import catalog
from tests.conftest import PASSWORD, Database, at


async def login(database: Database, role: str) -> str:
    """The database's address for a new member of a role."""
    name = f"{database.name}_{role}"
    await database.run(f"create role {name} login password '{PASSWORD}' in role {role}")
    return at(database.url, database=database.name, user=name, password=PASSWORD)


@pytest.fixture
async def prepared(empty: Database) -> AsyncIterator[Database]:
    """A database that its superuser has migrated once, and whose logins end with it."""
    await migrations.upgrade(empty.admin)
    yield empty
    for role in ("im_migrator", "im_backup"):
        await empty.run(f"drop role if exists {empty.name}_{role}")


async def test_a_migrator_goes_down_and_up_and_leaves_the_schema_of_a_superuser(prepared: Database) -> None:
    before = await catalog(prepared.admin)
    url = await login(prepared, "im_migrator")
    await migrations.downgrade(url, "0010")
    await migrations.upgrade(url)
    assert await catalog(prepared.admin) == before


async def test_a_migrator_is_no_superuser_and_makes_no_roles(prepared: Database) -> None:
    connection = await asyncpg.connect(await login(prepared, "im_migrator"))
    for statement in ("create role anything", "alter role im_server superuser", "select * from pg_authid"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_who_takes_backups_may_copy_the_server_and_dump_the_database(prepared: Database, tmp_path: Path) -> None:
    """Each login has to be allowed to replicate by itself: that is nothing which a role hands on."""
    url = await login(prepared, "im_backup")
    await prepared.run(f"alter role {prepared.name}_im_backup replication")
    for kind in Kind:
        assert take(url, tmp_path, kind).size > 0


async def test_who_takes_backups_changes_nothing(prepared: Database) -> None:
    connection = await asyncpg.connect(await login(prepared, "im_backup"))
    assert await connection.fetchval("select count(*) from token") == 0
    for statement in ("update control set ticked_at = now()", "delete from event", "create table public.anything ()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.fetchval("select pg_switch_wal()")
    await connection.close()


async def test_a_role_that_is_not_there_is_named_with_what_makes_it(empty: Database) -> None:
    """Whoever migrates may make none, and a role of a later release is missing."""
    name = f"{empty.name}_plain"
    await empty.run("alter role im_backup rename to im_backup_away")
    try:
        await empty.run(f"create role {name} login password '{PASSWORD}' in role im_owner")
        url = at(empty.url, database=empty.name, user=name, password=PASSWORD)
        with pytest.raises(Exception, match=f"the role im_backup is not there, and {name} may not make it"):
            await migrations.upgrade(url, patience=0)
    finally:
        await empty.run("alter role im_backup_away rename to im_backup")
        await empty.run(f"drop role {name}")
