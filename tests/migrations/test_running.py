"""Running migrations: wholly or not at all, one at a time, in nobody's way for long, and never from under a manager."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import asyncpg
import pytest

from manager.domain.calls import Registration
from manager.domain.instance import MANAGER_LABEL, InstanceType
from manager.embedded import psql
from manager.presence import new_id
from manager.repository import migrations, versions
from manager.repository.migrating import Obstructed, SchemaInUse
from manager.repository.versions import SchemaMismatch
from tests.catalog import catalog
from tests.conftest import Database
from tests.fleet import fleet_of
from tests.migrations.conftest import Also
from tests.processes import imctl


@pytest.fixture
async def migrated(empty: Database) -> Database:
    await migrations.upgrade(empty.admin)
    return empty


async def version(database: Database) -> str:
    return str(await database.value("select version_num from alembic_version"))


@asynccontextmanager
async def holding(database: Database, statement: str) -> AsyncIterator[None]:
    """Somebody who has run the statement in a transaction that stays open."""
    connection = await asyncpg.connect(database.admin, server_settings={"application_name": "a long question"})
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


# ── wholly or not at all ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_migration_that_fails_half_way_has_changed_nothing(migrated: Database, also: Also) -> None:
    before, newest = await catalog(migrated.admin), versions.newest()
    also("half", "def upgrade():\n    op.execute('create table half (at int)')\n    op.execute('select 1 / 0')\n")
    with pytest.raises(Exception, match="division by zero"):
        await migrations.upgrade(migrated.admin)
    assert await catalog(migrated.admin) == before
    assert await version(migrated) == newest


async def test_the_sql_that_is_printed_makes_the_same_schema(empty: Database, database: Database) -> None:
    program = psql(None)
    printed = await imctl("migrate", "--sql")
    assert printed.code == 0, printed.err
    ran = await asyncio.create_subprocess_exec(
        program, "-q", "-v", "ON_ERROR_STOP=1", empty.admin, stdin=asyncio.subprocess.PIPE, stderr=-1, stdout=-1
    )
    _, errors = await ran.communicate(printed.out.encode())
    assert ran.returncode == 0, errors.decode()
    assert await catalog(empty.admin) == await catalog(database.admin)


# ── in nobody's way ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lock_that_somebody_holds_is_waited_for_with_nobody_behind_it_for_long(
    migrated: Database, also: Also, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "PAUSE", 0.1)
    also("wide", "def upgrade():\n    op.execute('alter table instance add column wide int')\n")
    told: list[str] = []
    obstructed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear(line: str) -> None:
        told.append(line)
        loop.call_soon_threadsafe(obstructed.set)

    async with holding(migrated, "select from instance"):
        going = asyncio.create_task(migrations.upgrade(migrated.admin, told=hear))
        async with asyncio.timeout(10):
            await obstructed.wait()
        for _ in range(3):
            begun = monotonic()
            await migrated.run("select from instance")
            assert monotonic() - begun < 2
    async with asyncio.timeout(10):
        assert await going == "wide"
    assert "a long question of postgres" in told[0]
    assert await version(migrated) == "wide"


async def test_who_stays_in_the_way_is_named_in_the_end_and_nothing_has_changed(migrated: Database, also: Also) -> None:
    also("wide", "def upgrade():\n    op.execute('alter table instance add column wide int')\n")
    before, newest = await catalog(migrated.admin), await version(migrated)
    async with holding(migrated, "select from instance"):
        with pytest.raises(Obstructed, match=r"a long question of postgres .process [0-9]+., in a transaction for"):
            await migrations.upgrade(migrated.admin, patience=0)
    assert await catalog(migrated.admin) == before
    assert await version(migrated) == newest


async def test_a_second_runner_waits_for_the_first_without_a_transaction(migrated: Database) -> None:
    async with holding(migrated, "select pg_advisory_lock(4711, 2)"):
        ended = await imctl("migrate", "--patience", "0", DATABASE_URL=migrated.admin)
    assert ended.code == 1
    assert "another `imctl migrate` runs on this database (process " in ended.err
    assert "Traceback" not in ended.err
    assert (await imctl("migrate", DATABASE_URL=migrated.admin)).code == 0


async def test_an_index_is_built_while_others_write(migrated: Database, also: Also) -> None:
    """It waits for a transaction that was there before it, and nobody waits for it."""
    also(
        "index",
        "from manager.repository import concurrently\n"
        "def upgrade():\n    concurrently.create_index('by_actor', 'event (actor)')\n",
    )
    async with fleet_of(migrated) as fleet:
        await fleet.add()
        async with holding(migrated, "delete from event where false"):
            going = asyncio.create_task(migrations.upgrade(migrated.admin))
            async with asyncio.timeout(10):
                while not await migrated.value("select to_regclass('by_actor') is not null"):
                    await asyncio.sleep(0.02)
            async with asyncio.timeout(5):
                await fleet.add()
            assert not going.done()
        await going
    assert await migrated.value("select indisvalid from pg_index where indexrelid = 'by_actor'::regclass")


async def test_an_index_whose_building_was_broken_off_is_built_anew(empty: Database) -> None:
    await migrations.upgrade(empty.admin, "0002")
    await empty.run("create index event_of on event (nonce)")
    await empty.run("update pg_index set indisvalid = false where indexrelid = 'event_of'::regclass")
    await migrations.upgrade(empty.admin, "0003")
    ((valid, definition),) = await empty.run(
        "select indisvalid, pg_get_indexdef(indexrelid) from pg_index where indexrelid = 'event_of'::regclass"
    )
    assert valid
    assert "(instance_id, revision, ordinal)" in definition


async def test_an_index_of_samples_is_built_in_one_partition_after_the_other(empty: Database) -> None:
    await migrations.upgrade(empty.admin, "0006")
    partitions = await empty.value("select count(*) from pg_inherits where inhparent = 'system_metrics'::regclass")
    await migrations.upgrade(empty.admin, "0007")
    rows = await empty.run(
        "select i.indisvalid, (select count(*) from pg_inherits where inhparent = i.indexrelid) as parts"
        " from pg_index i where i.indexrelid = any(array['system_metrics_at', 'proxy_metrics_at', 'gpu_metrics_at',"
        " 'llm_metrics_at']::regclass[])"
    )
    assert [tuple(row) for row in rows] == [(True, partitions)] * 4
    assert partitions == 9


# ── releases ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_schema_of_a_later_release_stays_as_it_is(migrated: Database) -> None:
    """As where a manager of the release before starts anew, half-way through an upgrade."""
    await migrated.run("update alembic_version set version_num = 'of a later release'")
    ended = await imctl("migrate", DATABASE_URL=migrated.admin)
    assert ended.code == 0, ended.err
    assert "the schema is at of a later release, of a later release than this one, and stays there" in ended.err
    with pytest.raises(SchemaMismatch, match="go down by that one's imctl"):
        await migrations.downgrade(migrated.admin, "0001")
    assert await version(migrated) == "of a later release"


@asynccontextmanager
async def managed(database: Database, release: str) -> AsyncIterator[None]:
    """A manager of a release that has just checked its health, as its row tells."""
    async with fleet_of(database) as fleet:
        label = {MANAGER_LABEL: release}
        await fleet.do(Registration(new_id(), InstanceType.INSTANCE_MANAGER, f"host-{release}", label))
        yield


CONTRACT = "def upgrade():\n    op.execute(\"update control set serves_from = '0.2.0'\")\n"


async def test_nothing_is_taken_from_under_a_manager_that_lives(migrated: Database, also: Also) -> None:
    also("contract", CONTRACT)
    newest = await version(migrated)
    async with managed(migrated, "0.1.9"), managed(migrated, "0.2.0"):
        with pytest.raises(SchemaInUse, match=r"serve releases from 0.2.0 on.*Still running: 0.1.9 on host-0.1.9$"):
            await migrations.upgrade(migrated.admin)
        assert await version(migrated) == newest
        assert await migrated.value("select serves_from from control") == "0.1.0"
        await migrated.run("update heartbeat set last_seen = now() - interval '31 s'")
        await migrations.upgrade(migrated.admin)
    assert await version(migrated) == "contract"


async def test_nobody_goes_down_from_under_a_manager_that_needs_what_there_is(migrated: Database) -> None:
    async with managed(migrated, "0.2.0"):
        with pytest.raises(
            SchemaInUse, match=r"an older schema does not serve 0.2.0.*Still running: 0.2.0 on host-0.2.0$"
        ):
            await migrations.downgrade(migrated.admin, "0001", release="0.2.0")
        assert await version(migrated) == versions.newest()
        await migrations.downgrade(migrated.admin, versions.known()[-2], release="0.3.0")
    assert await version(migrated) == versions.known()[-2]


# ── the linter ───────────────────────────────────────────────────────────────────────────────────────────────────────

LINT = """
import sys
from pathlib import Path
from manager.repository import migrations, versions
versions.scripts = lambda: Path(sys.argv[1])
sys.path.insert(0, "migrations")
import lint
sys.exit(lint.main())
"""


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("create index by_nonce on event (nonce)", "require-concurrent-index-creation"),
        ("alter table instance alter column hostname type varchar(99)", "changing-column-type"),
        ("alter table instance add column at timestamptz default clock_timestamp()", "adding-field-with-default"),
        ("alter table event add constraint kind check (type > 0)", "constraint-missing-not-valid"),
        ("", ""),
    ],
)
def test_squawk_looks_at_what_a_migration_runs(also: Also, statement: str, rule: str) -> None:
    also("careless", f"def upgrade():\n    op.execute({statement or 'select 1'!r})\n")
    ran = subprocess.run(
        [sys.executable, "-c", LINT, str(versions.scripts())], capture_output=True, text=True, env={**os.environ}
    )
    assert (ran.returncode != 0) == bool(rule), ran.stdout + ran.stderr
    assert rule in ran.stdout + ran.stderr
