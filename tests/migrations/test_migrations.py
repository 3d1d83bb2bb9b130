"""The schema's history: up and down without a trace, and the same tables as in the code."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from manager.repository import migrations, versions
from manager.repository.schema import metadata
from manager.repository.versions import SchemaMismatch, require
from tests.catalog import catalog
from tests.conftest import Database
from tests.fleet import fleet_of


async def test_up_down_and_up_again_leaves_no_trace(empty: Database) -> None:
    before = await catalog(empty.admin)
    await migrations.upgrade(empty.admin)
    first = await catalog(empty.admin)
    await migrations.downgrade(empty.admin)
    left = await catalog(empty.admin) - before
    # Alembic's own table, and the right of the owner to make others
    assert {name for kind, name, _ in left if kind != "column"} <= {
        "alembic_version",
        "alembic_version_pkc",
        "alembic_version.alembic_version_pkc",
        "public",
    }
    await migrations.upgrade(empty.admin)
    assert await catalog(empty.admin) == first


async def test_down_works_with_a_fleet_in_it(empty: Database) -> None:
    await migrations.upgrade(empty.admin)
    async with fleet_of(empty) as fleet:
        root, *_ = await fleet.chain(3)
        await fleet.kill(root)
    await migrations.downgrade(empty.admin)


async def test_the_tables_in_the_code_are_those_of_the_migrations(empty: Database, database: Database) -> None:
    """Alembic's own check is blind to CHECKs, partition keys and storage parameters."""
    engine = create_async_engine(empty.admin.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.begin() as connection:
        await connection.exec_driver_sql("grant create on schema public to im_owner")
        await connection.exec_driver_sql("set local role im_owner")
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    migrated = await tables(database)
    assert await tables(empty) == migrated
    assert len(migrated) > 200


async def tables(database: Database) -> set[tuple[str, str, str]]:
    """What the catalog tells of the tables that the code knows; without rights, and without partitions."""
    found = set()
    for kind, name, definition in await catalog(database.admin, "relation", "column", "constraint", "index"):
        table = name.split(".")[0] if kind != "index" else definition.split(" ON ")[1].removeprefix("ONLY ")
        if table.removeprefix("public.").split(" ")[0] in metadata.tables:
            found.add((kind, name, definition.partition(" {im_")[0]))
    return found


async def test_alembic_sees_no_difference(database: Database) -> None:
    await migrations.check(database.admin)


async def test_every_constraint_and_index_has_a_name_of_ours(database: Database) -> None:
    """PostgreSQL's own inventions change with the columns, and cannot be told to a client by a table."""
    for kind, name, _ in await catalog(database.admin, "constraint", "index"):
        if "_day" in name or name.startswith("alembic_version"):
            continue
        assert not name.endswith(("_check", "_fkey", "_key", "_idx", "_excl")), (kind, name)


async def test_no_migration_needs_an_extension(database: Database) -> None:
    assert await catalog(database.admin, "extension") == {
        each for each in await catalog(database.admin, "extension") if each[1] == "plpgsql"
    }


async def test_there_is_one_newest_version_and_the_template_has_it(database: Database) -> None:
    assert await database.value("select version_num from alembic_version") == versions.newest()


def test_the_names_of_the_files_tell_the_versions_in_their_order() -> None:
    """By them, whoever serves knows the versions; Alembic goes by what is in the files."""
    read = ScriptDirectory(str(versions.scripts())).walk_revisions()
    assert versions.known() == [each.revision for each in read][::-1]


async def test_two_runners_at_once_do_not_collide(empty: Database) -> None:
    environment = {**os.environ, "DATABASE_URL": empty.admin}
    runners = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "manager", "migrate", env=environment, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    for runner in runners:
        _, errors = await runner.communicate()
        assert runner.returncode == 0, errors.decode()
    async with asyncio.timeout(5):
        assert await empty.value("select count(*) from alembic_version") == 1
    await migrations.check(empty.admin)


async def test_a_repeat_changes_nothing(empty: Database) -> None:
    await migrations.upgrade(empty.admin)
    first = await catalog(empty.admin)
    await migrations.upgrade(empty.admin)
    assert await catalog(empty.admin) == first


# ── what a release may serve ─────────────────────────────────────────────────────────────────────────────────────────


async def required(database: Database, release: str = "0.1.0") -> None:
    async with fleet_of(database) as fleet, fleet.connections.readers.use() as connection:
        await require(connection, release)


@pytest.fixture
async def served(empty: Database) -> Database:
    """A migrated database on which the server role may look."""
    await migrations.upgrade(empty.admin)
    return empty


async def mismatch(database: Database, release: str = "0.1.0") -> str:
    """What is said of a schema that may not be served."""
    async with fleet_of(database) as fleet, fleet.connections.readers.use() as connection:
        with pytest.raises(SchemaMismatch) as refused:
            await require(connection, release)
    return str(refused.value)


async def test_the_present_schema_is_served(served: Database) -> None:
    await required(served)


async def test_a_missing_schema_is_refused_naming_the_command(empty: Database) -> None:
    assert "imctl migrate" in await mismatch(empty)
    await migrations.upgrade(empty.admin)
    await migrations.downgrade(empty.admin)
    assert "imctl migrate" in await mismatch(empty)


async def test_an_older_schema_is_refused_naming_both_versions(
    served: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is for the release after this one."""
    folder = tmp_path / "migrations"
    shutil.copytree(versions.scripts(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "next.py").write_text(f'revision, down_revision = "next", "{versions.newest()}"\n')
    present = versions.newest()
    monkeypatch.setattr(versions, "scripts", lambda: folder)
    said = await mismatch(served)
    assert present in said
    assert "next" in said
    assert "imctl migrate" in said


async def test_a_newer_schema_is_served(served: Database) -> None:
    await served.run("update alembic_version set version_num = 'of a later release'")
    await required(served)


async def test_a_schema_that_no_longer_serves_this_release_is_refused(served: Database) -> None:
    await served.run("update alembic_version set version_num = 'of a later release'")
    await served.run("update control set serves_from = '0.10.0'")
    await required(served, "0.10.0")
    await required(served, "1.0.0")
    assert "0.10.0" in await mismatch(served, "0.9.9")


# ── who may do what ──────────────────────────────────────────────────────────────────────────────────────────────────

READ = {"SELECT"}
RIGHTS = {
    "alembic_version": READ,
    "control": READ,  # and columns of it may be written
    "denied_call": READ | {"INSERT"},  # and what is counted may be
    "epitaph": set(),  # the owner's functions write it, and the auditor's views read it
    "event": READ | {"INSERT"},
    "gpu_metrics": READ | {"INSERT"},
    **{
        f"{kind}_metrics_{level}": READ | {"INSERT", "UPDATE"}
        for kind in ("system", "proxy", "gpu", "llm")
        for level in ("minutes", "hours")
    },
    "heartbeat": READ | {"INSERT", "UPDATE", "DELETE"},
    "history_epoch": READ | {"INSERT"},
    "trail": READ | {"INSERT"},
    "trail_seal": READ,
    "host_stats": READ | {"INSERT", "UPDATE", "DELETE"},
    "token": READ | {"INSERT", "UPDATE", "DELETE"},
    "instance": READ | {"INSERT", "UPDATE"},
    "instance_version": READ | {"INSERT"},
    "latest_gpu_metrics": READ | {"INSERT", "UPDATE", "DELETE"},
    "latest_llm_metrics": READ | {"INSERT", "UPDATE", "DELETE"},
    "latest_proxy_metrics": READ | {"INSERT", "UPDATE", "DELETE"},
    "latest_system_metrics": READ | {"INSERT", "UPDATE", "DELETE"},
    "llm_metrics": READ | {"INSERT"},
    "metrics_rollup": READ | {"UPDATE"},
    "parent_link": READ | {"INSERT", "UPDATE"},
    "proxy_metrics": READ | {"INSERT"},
    "reaper_group": READ | {"INSERT", "UPDATE", "DELETE"},
    "service": READ | {"INSERT"},
    "system_metrics": READ | {"INSERT"},
    # views
    "event_log": READ,
    "graveyard": READ,
    "history_here": READ,
    "instance_state": READ,
    "instance_tree": READ,
    "instance_whole": READ,
    "lease": READ,
    "live_instance": READ,
    "service_endpoint": READ,
}
FUNCTIONS = {
    "trail_hash",
    "trim_denied",
    "trim_trail",
    "bury_dead",
    "cause_name",
    "compact_history",
    "delete_compacted",
    "drop_old_metrics",
    "ever_below",
    "event_type_name",
    "instance_at",
    "instance_type_name",
    "lived_at",
    "prepare_metrics",
    "revision_at",
    "rolled_span",
    "service_type_name",
    *(f"{kind}_metrics_{what}" for kind in ("system", "proxy", "gpu", "llm") for what in ("rolled", "hourly", "usage")),
}


async def test_the_server_role_has_these_rights_and_no_others(database: Database) -> None:
    rows = await database.run("""
        select c.relname, array_agg(p) filter (where has_table_privilege('im_server', c.oid, p)) as rights
        from pg_class c
        cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
        group by c.relname""")
    found = {row["relname"]: set(row["rights"] or ()) for row in rows}
    partitions = {name: rights for name, rights in found.items() if name[-8:].isdigit()}
    assert len([each for each in partitions if "_minutes_" not in each and "_hours_" not in each]) == 36
    assert not any(partitions.values())
    assert {name: rights for name, rights in found.items() if name not in partitions} == RIGHTS


async def test_of_control_the_server_writes_what_it_decides_and_nothing_of_what_was_cut_off(database: Database) -> None:
    rows = await database.run("""
        select attname from pg_attribute where attrelid = 'control'::regclass and attnum > 0 and not attisdropped
        and not has_column_privilege('im_server', attrelid, attnum, 'update')""")
    assert {row["attname"] for row in rows} == {
        *("one", "serves_from", "buried_revision"),
        *(f"compacted_{each}" for each in ("revision", "ordinal", "nonce")),
    }


async def test_the_server_role_may_call_these_functions_and_no_others(database: Database) -> None:
    rows = await database.run("""
        select proname from pg_proc where pronamespace = 'public'::regnamespace
        and has_function_privilege('im_server', oid, 'EXECUTE')""")
    assert {row["proname"] for row in rows} == FUNCTIONS


async def test_the_owners_functions_are_nobody_elses(database: Database) -> None:
    rows = await database.run("""
        select proname, proconfig, pg_get_userbyid(proowner) as owner,
               (select count(*) from aclexplode(proacl) where grantee = 0) as to_all
        from pg_proc where pronamespace = 'public'::regnamespace and prosecdef""")
    assert {row["proname"] for row in rows} == {
        "bury_dead",
        "compact_history",
        "delete_compacted",
        "drop_old_metrics",
        "prepare_metrics",
        "trim_denied",
        "trim_trail",
    }
    for row in rows:
        assert row["owner"] == "im_owner"
        assert row["to_all"] == 0
        assert "search_path=pg_catalog, public, pg_temp" in row["proconfig"]


@pytest.mark.parametrize(
    "statement",
    [
        "update event set actor = 'nobody'",
        "delete from event",
        "delete from trail",
        "delete from denied_call",
        "update epitaph set actor = 'nobody'",
        "update denied_call set who = 'nobody'",
        "update trail_seal set number = 0",
        "truncate event",
        "delete from instance",
        "truncate heartbeat",
        "update history_epoch set base_revision = 0",
        "insert into control (ticked_at, serves_from) values (now(), '0')",
        "update control set compacted_revision = 1000000",
        "update control set serves_from = '0'",
        "alter table control disable trigger control_keeps_longest",
        "create table anything (at int)",
        "create schema anything",
        "create function anything() returns int language sql return 1",
        "alter table instance add column anything int",
        "create index anything on event (at)",
        "drop table reaper_group",
        "drop view event_log",
        "create role anything",
        "set role im_owner",
        "alter role im_server superuser",
        "select * from pg_authid",
        "copy event to program 'cat'",
    ],
)
async def test_the_server_role_cannot(database: Database, statement: str) -> None:
    connection = await asyncpg.connect(database.url)
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)):
        await connection.execute(statement)
    await connection.close()


async def test_the_roles_are_no_more_than_they_must(database: Database) -> None:
    rows = await database.run("""
        select rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
               array(select m.roleid::regrole::text from pg_auth_members m where m.member = r.oid order by 1) as member
        from pg_roles r where rolname ~ '^im_(auditor|backup|migrator|owner|retention|server)$' order by 1""")
    reads_all = ["pg_read_all_data", "pg_read_all_settings", "pg_read_all_stats"]
    assert [tuple(row) for row in rows] == [
        ("im_auditor", False, False, False, False, False, []),
        ("im_backup", False, False, False, True, False, reads_all),
        ("im_migrator", False, False, False, False, False, ["im_owner", "pg_read_all_stats"]),
        ("im_owner", False, False, False, False, False, []),
        ("im_retention", False, False, False, False, False, []),
        ("im_server", False, False, False, False, False, []),
    ]
    assert not await database.value("select rolcanlogin from pg_roles where rolname = 'im_owner'")
