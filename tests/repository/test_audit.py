"""The schema `audit`: what it promises, who may look, and that it says the same as the tables."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from manager.domain.actor import Actor
from manager.domain.calls import Kill
from manager.repository import migrations
from tests.conftest import PASSWORD, Database, at
from tests.fleet import Fleet, service

AUDITOR = "im_auditor"
PROMISED = Path(__file__).with_name("audit_promised.txt")

COLUMNS = """
select c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) as column, c.relname as of
from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = 'audit'::regnamespace and c.relkind in ('v', 'c')
order by c.relname, a.attnum
"""
FUNCTIONS = """
select p.oid::regprocedure || ' ' || pg_get_function_result(p.oid) as signature from pg_proc p
where p.pronamespace = 'audit'::regnamespace order by 1
"""


@pytest.fixture
async def auditor(database: Database, cluster: str) -> AsyncIterator[Any]:
    """A connection as the reader of the record."""
    await database.run(f"alter role {AUDITOR} login password '{PASSWORD}'")
    connection = await asyncpg.connect(at(cluster, database=database.name, user=AUDITOR, password=PASSWORD))
    yield connection
    await connection.close()


# ── what is promised ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_names_and_types_are_as_promised_and_what_is_new_comes_last(database: Database) -> None:
    promised: dict[str, list[str]] = {}
    for line in PROMISED.read_text().splitlines():
        if "(" not in line:
            promised.setdefault(line.split(".")[0], []).append(line)
    present: dict[str, list[str]] = {}
    for row in await database.run(COLUMNS):
        present.setdefault(row["of"], []).append(row["column"])
    assert len(promised) > 20
    for name, columns in promised.items():
        assert present[name][: len(columns)] == columns


async def test_functions_are_as_promised(database: Database) -> None:
    promised = {line for line in PROMISED.read_text().splitlines() if "(" in line}
    assert promised
    assert promised <= {row["signature"] for row in await database.run(FUNCTIONS)}


async def test_the_catalogue_says_what_everything_is(database: Database) -> None:
    silent = await database.run("""
        select c.relname, a.attname from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'audit'::regnamespace and col_description(c.oid, a.attnum) is null""")
    unnamed = await database.run("""
        select c.relname from pg_class c where c.relnamespace = 'audit'::regnamespace
        and coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type')) is null
        union all
        select p.proname from pg_proc p where p.pronamespace = 'audit'::regnamespace
        and obj_description(p.oid, 'pg_proc') is null""")
    assert (silent, unnamed) == ([], [])


# ── who may look ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_auditor_may_read_the_views_and_nothing_else(database: Database) -> None:
    rows = await database.run("""
        select n.nspname, c.relname, array_agg(p) filter (where has_table_privilege('im_auditor', c.oid, p)) as rights
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
        where n.nspname in ('public', 'audit') and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
        group by 1, 2""")
    found = {(row["nspname"], row["relname"]): row["rights"] for row in rows}
    assert {rights and tuple(rights) for (schema, _), rights in found.items() if schema == "audit"} == {("SELECT",)}
    assert not [name for (schema, name), rights in found.items() if schema == "public" and rights]


async def test_every_view_is_a_security_barrier_and_the_owners(database: Database) -> None:
    rows = await database.run("""
        select c.relname, c.reloptions, pg_get_userbyid(c.relowner) as owner from pg_class c
        where c.relnamespace = 'audit'::regnamespace and c.relkind = 'v'""")
    assert len(rows) > 15
    assert {(tuple(row["reloptions"]), row["owner"]) for row in rows} == {(("security_barrier=true",), "im_owner")}


async def test_the_owners_functions_have_their_search_path_and_are_nobody_elses(database: Database) -> None:
    rows = await database.run("""
        select p.proname, p.proconfig, p.prosecdef,
               (select count(*) from aclexplode(p.proacl) where grantee = 0) as open
        from pg_proc p where p.pronamespace = 'audit'::regnamespace""")
    assert not [row["proname"] for row in rows if row["open"]]
    assert {tuple(row["proconfig"]) for row in rows if row["prosecdef"]} == {
        ("search_path=pg_catalog, public, pg_temp",)
    }


@pytest.mark.parametrize(
    "statement",
    [
        "select * from public.instance",
        "select * from public.event_log",
        "select digest from public.instance_whole",
        "select * from public.lived_at(0)",
        "select public.bury_dead(1)",
        "select audit.on_record(0)",
        "update audit.epochs set reason = ''",
        "set transaction_read_only = off; delete from audit.links",
        "set transaction_read_only = off; create table public.anything (at int)",
        "set transaction_read_only = off; create view audit.anything as select 1",
        "set role im_owner",
        "set role im_server",
        "select rolpassword from pg_authid",
        "copy (select 1) to program 'cat'",
        "select pg_read_file('/etc/passwd')",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres'",
        # 1 is the lock of changes, 2 that of migrations, 3 that of partitions
        *(f"select pg_advisory_lock(4711, {each})" for each in (1, 2, 3)),
        "select pg_try_advisory_lock_shared(4711, 1)",
        "select pg_advisory_xact_lock(4711)",
        "set transaction_read_only = off; select lo_from_bytea(0, 'x')",
        "set temp_file_limit = -1",
    ],
)
async def test_the_auditor_cannot(auditor: Any, statement: str) -> None:
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ObjectNotInPrerequisiteStateError)):
        await auditor.execute(statement)


async def test_a_copied_database_bars_the_auditor_again_when_it_is_migrated(database: Database, auditor: Any) -> None:
    """A template's rights to temporary tables do not come along, nor those of a dump."""
    statement = "set transaction_read_only = off; create temporary table anything (at int)"
    await database.run(f"grant temporary on database {database.name} to public")
    await auditor.execute(statement)
    await database.run("grant execute on function pg_advisory_lock(bigint) to public")
    await migrations.upgrade(database.admin)
    for each in (statement.replace("anything", "other"), "select pg_advisory_lock(4711)"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await auditor.execute(each)
    await auditor.execute("select pg_advisory_unlock_all()")  # as pools of connections do
    connection = await asyncpg.connect(database.url)
    await connection.execute("select pg_advisory_lock(4711, 1)")
    await connection.close()


async def test_the_auditors_sessions_are_few_and_bounded(database: Database, auditor: Any) -> None:
    assert await database.value("select rolconnlimit from pg_roles where rolname = 'im_auditor'") == 5
    assert not await database.value(
        "select rolsuper or rolinherit and exists (select from pg_auth_members m"
        " where m.member = r.oid) from pg_roles r where rolname = 'im_auditor'"
    )
    told = {
        name: await auditor.fetchval(f"show {name}")
        for name in (
            "statement_timeout",
            "default_transaction_read_only",
            "max_parallel_workers_per_gather",
            "temp_file_limit",
        )
    }
    assert told == {
        "statement_timeout": "30s",
        "default_transaction_read_only": "on",
        "max_parallel_workers_per_gather": "0",
        "temp_file_limit": "1GB",
    }


async def test_a_question_that_takes_too_long_is_cut_off(auditor: Any) -> None:
    await auditor.execute("set statement_timeout = '100ms'")
    with pytest.raises(asyncpg.QueryCanceledError):
        await auditor.execute("select count(*) from generate_series(1, 1000000000)")


async def test_a_question_that_is_still_open_holds_up_no_change_and_no_upkeep(fleet: Fleet, auditor: Any) -> None:
    """Whoever has read everything holds a lock on every table, and the oldest snapshot, until the end."""
    parent = await fleet.add()
    views = [row["viewname"] for row in await auditor.fetch("select viewname from pg_views where schemaname = 'audit'")]
    async with auditor.transaction(isolation="repeatable_read", readonly=True):
        for each in views:
            await auditor.fetch(f"select * from {each}")
        await fleet.sql.execute("set lock_timeout = '1s'")
        child = await fleet.add(parent, services=(service(),))
        assert [each.reason for each in await fleet.check(parent, child)] == [None, None]
        await fleet.silence(31)
        await fleet.tick()
        assert (await fleet.kill(parent)).reason is None
        waiting = await fleet.value("select count(*) from pg_locks where not granted")
        await fleet.sql.execute(
            "select prepare_metrics(30), compact_history(100), delete_compacted(100), bury_dead(10)"
        )
        assert waiting == 0
        assert len(await auditor.fetch("select * from instances where status <> 'DEAD'")) == 1
    assert len(await auditor.fetch("select * from deaths")) == 2


async def test_every_view_answers_the_auditor_about_a_fleet(fleet: Fleet, auditor: Any) -> None:
    root, child, _ = await fleet.chain(3)
    await fleet.offer(child, service())
    await fleet.kill(child)
    views = await auditor.fetch("select viewname from pg_views where schemaname = 'audit'")
    empty = {"denied_calls", "epochs", "host_statistics", "type_statistics", "versions"}
    for row in views:
        found = await auditor.fetch(f"select * from {row['viewname']}")
        assert found or row["viewname"].endswith(("_metrics", "_minutes", "_hours")) or row["viewname"] in empty
    assert {row["id"] for row in await auditor.fetch("select id from instances where status = 'HEALTHY'")} == {root}


# ── what is kept for it ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_death_keeps_when_each_victim_was_last_seen(fleet: Fleet) -> None:
    parent, child = await fleet.chain(2)
    await fleet.silence(5)
    seen = {row["instance_id"]: row["last_seen"] for row in await fleet.rows("select * from heartbeat")}
    await fleet.kill(parent)
    kept = {row["id"]: row["last_seen"] for row in await fleet.rows("select id, last_seen from audit.deaths")}
    assert kept == {parent: seen[parent], child: seen[child]}


async def test_who_asked_for_a_death_and_why_is_told_alike_once_its_event_is_trimmed(
    fleet: Fleet, auditor: Any
) -> None:
    roots = [(await fleet.chain(3))[0] for _ in range(4)]
    await fleet.add(roots[0])
    named, unnamed = Actor("ann", None, "ipv4:10.0.0.9:1"), Actor(address="ipv4:10.0.0.9:2")
    await fleet.do(Kill(roots[0], "rollout 7", named), Kill(roots[1], "", unnamed))
    await fleet.do(Kill(roots[2], "leaks 'memory'\n", unnamed))
    silent = await fleet.add()
    await fleet.silence(1_000, silent)
    await fleet.tick()
    asked = ("select * from deaths order by id", "select * from root_causes order by id")
    told = [await auditor.fetch(each) for each in asked]
    assert [len(rows) for rows in told] == [11, 4]
    assert {(row["actor"], row["note"]) for row in told[1]} == {
        ("ann", "rollout 7"),
        (unnamed.address, ""),
        (unnamed.address, "leaks 'memory'\n"),
        (fleet.actor, ""),
    }
    await fleet.sql.execute("update event set at = at - interval '8 days'")
    await fleet.sql.execute("select compact_history(1000)")
    while await fleet.value("select delete_compacted(3)"):
        assert [await auditor.fetch(each) for each in asked] == told
    assert await fleet.value("select count(*) from event") == 0


async def test_the_past_is_whole_from_the_last_burial_on(fleet: Fleet, auditor: Any) -> None:
    """Whoever asks for what is forgotten is told so, and never shown a part."""
    first, second = await fleet.add(), await fleet.add()
    await fleet.kill(first)
    await fleet.kill(second)
    stays = await fleet.add()
    await fleet.sql.execute("update control set compacted_revision = 3")
    await fleet.sql.execute("update instance set died_at = died_at - interval '60 days' where id = $1", first)
    assert await fleet.value("select bury_dead(10)") == 1
    assert await auditor.fetchval("select oldest_past_revision from record") == 3
    with pytest.raises(asyncpg.InvalidParameterValueError, match="revision 2 is not on record: ask about 3 to 5"):
        await auditor.fetch("select * from instances_at_revision(2)")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="revision 6 is not on record"):
        await auditor.fetch("select * from instances_at_revision(6)")
    living = {number: await auditor.fetch("select id from instances_at_revision($1)", number) for number in (3, 4, 5)}
    assert {number: {row["id"] for row in rows} for number, rows in living.items()} == {
        3: {second},
        4: set(),
        5: {stays},
    }


async def test_a_time_is_the_newest_change_by_then_within_the_kept_events_and_before_them(fleet: Fleet) -> None:
    for _ in range(20):
        await fleet.add()
    await fleet.sql.execute("update event set at = timestamptz '2026-01-01 00:00+00' + revision * interval '1 hour'")
    await fleet.sql.execute(
        "update instance set created_at = timestamptz '2026-01-01 00:00+00' + created_revision * interval '1 hour'"
    )
    asked = "select revision_at(timestamptz '2026-01-01 00:30+00' + $1 * interval '1 hour')"
    assert [await fleet.value(asked, hours) for hours in range(-1, 25)] == [0, *range(21), 20, 20, 20, 20]
    await fleet.sql.execute("update control set compacted_revision = 12")
    await fleet.sql.execute("delete from event where revision <= 12")
    assert [await fleet.value(asked, hours) for hours in range(-1, 25)] == [0, *range(21), 20, 20, 20, 20]


async def test_growth_is_counted_across_the_edge_of_the_time_asked_about_and_over_a_new_start(fleet: Fleet) -> None:
    one = await fleet.add()
    day = await fleet.value("select date_trunc('day', now() at time zone 'UTC') at time zone 'UTC'")
    for minutes, total in ((-90, 100), (10, 150), (30, 170), (70, 20), (80, 50)):
        await fleet.sql.execute(
            "insert into llm_metrics values ($1, $2, $1, $3, $4, $3)",
            day + timedelta(minutes=minutes),
            one,
            total,
            total * 10,
        )
    grown = await fleet.rows(
        "select starts_at, samples, requests, tokens_received from audit.llm_metrics_by('1 hour', $1,"
        " cast($1 as timestamptz) + interval '2 hours') order by 1",
        day,
    )
    assert [(row["starts_at"] - day).seconds // 3600 for row in grown] == [0, 1]
    assert [tuple(row)[1:] for row in grown] == [(2, 70, 700), (2, 50, 500)]
