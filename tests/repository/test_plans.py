"""Plans: no hot statement scans instance, parent_link or heartbeat, at 100,000 living and twenty dead for each.

The statements are taken from the repository's modules, all of them, and planned as they are in service: by the server
role, with the sessions' settings, once for all values.
"""

import importlib
import json
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from hashlib import md5
from itertools import combinations
from statistics import median
from time import perf_counter
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import Dialect, TextClause
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

import manager.repository
from manager.domain.calls import Registration
from manager.domain.filter import Filter
from manager.domain.instance import InstanceId, InstanceType
from manager.presence import new_id
from manager.repository import add, excerpt
from manager.repository.database import connect
from manager.repository.listing import CRITERIA, PAGE, living
from manager.repository.metrics import FORGET, TABLE
from manager.repository.turn import alone, appending
from tests.conftest import PASSWORD, Database, _recreate, at
from tests.fleet import Fleet, fleet_of

DIALECT: Dialect = cast(Any, PGDialect_asyncpg)()

LIVING = 100_000
GUARDED = {"instance", "parent_link", "heartbeat", "service", "instance_version"}

# Which of them a statement may read from one end to the other, and why.
PASSES = {
    "preservation.COUNT": {"heartbeat"},  # the reaper's one pass
    "preservation.SURVEY": {"heartbeat", "instance"},  # and what it needs where it found somebody silent
    "tick.DUE": {"heartbeat", "instance"},
    "tick.CHANGED": {"heartbeat"},
    "tick.CLAMP": {"heartbeat"},  # after the clock was set back
    "census.LIVING": {"instance"},  # for Prometheus, every 15 s at most: the living by type, along their index
    "census.STALE": {"heartbeat"},
    "heartbeat.MISSING": {"heartbeat", "instance"},  # upkeep, every few minutes: the living against their heartbeats
    "heartbeat.ORPHANED": {"heartbeat", "instance"},
    # the past of the whole fleet: of the living all, along their index, and of the dead those who lived then
    "past.LIVED": {"instance"},
    "past.SOUGHT": {"instance"},
    "past.TOUCHED": {"instance"},
    **{f"metrics.FORGET[{name}]": {"instance"} for name in TABLE.values()},  # upkeep: latest values of the dead
}
TICK = {each for each in PASSES if each.startswith(("tick.", "preservation."))}
UPKEEP = {"heartbeat.MISSING", "heartbeat.ORPHANED", *(each for each in PASSES if each.startswith("metrics."))}
# A list of no filter but its page goes through the living by id, and so does one by kinds, of which there are few.
LISTED = {(), ("service_types",), ("types",), ("types", "service_types")}

# The living are the first 100,000: a chain of 1,000, a tree of 10,000 (below 1,000, which has 99 children with 100
# each), and groups of ten, each of one parent and nine children. The dead are as the last were.
FILL = """
create function pg_temp.id(n bigint) returns uuid language sql immutable return md5(n::text)::uuid;
create function pg_temp.parent(n bigint) returns bigint language sql immutable return case
    when n between 1 and 999 then n - 1
    when n between 1001 and 1099 then 1000
    when n between 1100 and 10999 then 1001 + (n - 1100) / 100
    when n > 10999 and n % 10 > 0 then n - n % 10
end;

insert into instance (id, type, hostname, labels, timeout, digest, created_at, created_revision, updated_revision,
                      died_at, died_revision, death_cause, root_cause)
select pg_temp.id(n), case when n % 20000 = 7 then 5 else 1 + n % 4 end, 'host-' || n % 5000,
       jsonb_build_object('team', 'team-' || n % 500), '30 s',
       '\\x0000000000000000000000000000000000000000000000000000000000000000', now(), n + 1, n + 1,
       case when n >= 100000 then now() end, case when n >= 100000 then 2200000 end,
       case when n >= 100000 then 1 end, case when n >= 100000 then pg_temp.id(n) end
from generate_series(0, 2099999) n;

insert into parent_link (child_id, parent_id, revision, ended_revision)
select pg_temp.id(n), pg_temp.id(pg_temp.parent(n)), n + 1, case when n >= 100000 then 2200000 end
from generate_series(0, 2099999) n where pg_temp.parent(n) is not null;

insert into service (instance_id, ordinal, type, host, port, revision)
select pg_temp.id(n), 0, 1, '10.0.0.1', 9222, n + 1 from generate_series(0, 2099999, 10) n;

insert into heartbeat (instance_id, timeout, last_seen) select pg_temp.id(n), '30 s', now()
from generate_series(0, 99999) n;

insert into event (revision, ordinal, type, instance_id, after, actor, nonce, at)
select 2000000 + n, 0, 1, pg_temp.id(n), '{}', '', 0, now() from generate_series(1, 200000) n;

insert into instance_version (instance_id, from_revision, to_revision, type, hostname, labels, timeout)
select pg_temp.id(n), n, n + 1, 1, '', '{}', '30 s' from generate_series(1, 200000) n;

insert into epitaph (instance_id, actor, note)
select pg_temp.id(n), 'ann', 'why' from generate_series(100000, 199999) n;
"""

# Rows first and indexes after takes a fifth of the time.
CONSTRAINTS = """
select 'alter table ' || c.conrelid::regclass || ' drop constraint ' || c.conname || ' cascade' as without,
       'alter table ' || c.conrelid::regclass || ' add constraint ' || c.conname || ' ' || pg_get_constraintdef(c.oid)
       as again
from pg_constraint c join pg_class t on t.oid = c.conrelid
where t.relname = any($1) and c.contype in ('p', 'u', 'f') order by c.contype <> 'f', c.conname
"""
INDEXES = """
select 'drop index ' || i.indexrelid::regclass as without, pg_get_indexdef(i.indexrelid) as again
from pg_index i join pg_class t on t.oid = i.indrelid
where t.relname = any($1) and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
"""
TABLES = ["instance", "parent_link", "service", "heartbeat", "event", "instance_version"]


def numbered(number: int) -> InstanceId:
    """The id of one of the many."""
    return InstanceId(UUID(md5(str(number).encode(), usedforsecurity=False).hexdigest()))


@pytest.fixture(scope="module")
async def crowd(cluster: str, template: str) -> AsyncIterator[Database]:
    """A database of 2,100,000 instances, for this module alone."""
    name = "im_test_crowd"
    await _recreate(cluster, name, f"template {template} strategy file_copy")
    database = Database(
        name, at(cluster, database=name, user="im_server", password=PASSWORD), at(cluster, database=name)
    )
    begun = perf_counter()
    connection = await asyncpg.connect(database.admin)
    await connection.execute("set maintenance_work_mem = '512MB'; set synchronous_commit = off")
    dropped = [*await connection.fetch(CONSTRAINTS, TABLES), *await connection.fetch(INDEXES, TABLES)]
    for each in dropped:
        await connection.execute(each["without"])
    await connection.execute(FILL)
    for each in sorted(dropped, key=lambda each: "FOREIGN KEY" in each["again"]):
        await connection.execute(each["again"])
    await connection.execute("vacuum analyze")
    await connection.close()
    print(f"2,100,000 instances in {perf_counter() - begun:.0f} s")
    yield database
    connection = await asyncpg.connect(cluster)
    await connection.execute(f'drop database "{name}" with (force)')
    await connection.close()


@pytest.fixture
async def fleet(crowd: Database) -> AsyncIterator[Fleet]:
    """A manager on that database."""
    async with fleet_of(crowd) as one:
        yield one


# ── plans ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def statements() -> Iterator[tuple[str, TextClause | str]]:
    """Every statement of the repository, by module and name."""
    for module in pkgutil.iter_modules(manager.repository.__path__):
        for name, value in vars(importlib.import_module(f"manager.repository.{module.name}")).items():
            if isinstance(value, TextClause) and module.name not in ("schema", "migrations"):
                yield f"{module.name}.{name}", value
            elif isinstance(value, dict):
                for key, each in value.items():
                    if isinstance(each, TextClause):
                        yield f"{module.name}.{name}[{key.__name__}]", each
    for table in TABLE.values():
        yield f"metrics.FORGET[{table}]", FORGET.format(table=f"latest_{table}")
    yield "add.INSERT", alone(add.INSERT)
    yield "turn.APPEND", appending(add.INSERT)
    for given in [(), *combinations(CRITERIA, 1), *combinations(CRITERIA, 2)]:
        yield (
            f"listing.PAGE[{','.join(given)}]",
            PAGE.format(criteria=" and ".join(("true", *(CRITERIA[each] for each in given)))),
        )
    for whose in [(), *excerpt.WHOSE]:
        for given in [(), *combinations(excerpt.CRITERIA, 1), *combinations(excerpt.CRITERIA, 3)]:
            for oldest_first in (False, True):
                name = f"excerpt.page[{','.join(given + whose)}]{'' if oldest_first else ' newest first'}"
                yield name, excerpt.page((*given, *whose), oldest_first=oldest_first)


STATEMENTS = dict(statements())
# What has no plan, and what calls the owner's functions, which are looked at below.
UNPLANNED = {
    "tick.NARROW",
    "tick.WIDE",
    "metrics.PREPARE",
    "metrics.DROP",
    "trim.COMPACT",
    "trim.DELETE",
    "trim.BURY",
}


@dataclass(frozen=True)
class Node:
    """A step of a plan that reads a table."""

    kind: str
    table: str
    condition: str

    @property
    def is_pass(self) -> bool:
        """Whether it reads the table from one end to the other, be it along an index."""
        along = self.table in GUARDED and self.kind.startswith("Index") and not self.condition
        return along or (self.kind == "Seq Scan" and self.table in {*GUARDED, "event"})


def nodes(plan: dict[str, Any]) -> Iterator[Node]:
    """What a plan reads, in all its parts."""
    if "Relation Name" in plan and "Scan" in plan["Node Type"]:
        yield Node(plan["Node Type"], plan["Relation Name"], plan.get("Index Cond", ""))
    for each in plan.get("Plans", ()):
        yield from nodes(each)


async def explained(connection: asyncpg.Connection, statement: TextClause | str) -> list[Node]:
    """What the generic plan of a statement reads."""
    sql = str((TextClause(statement) if isinstance(statement, str) else statement).compile(dialect=DIALECT))
    await connection.execute(f"prepare explained as {sql}")
    count = await connection.fetchval(
        "select cardinality(parameter_types) from pg_prepared_statements where name = 'explained'"
    )
    given = f"({', '.join(['null'] * count)})" if count else ""
    plan = await connection.fetchval(f"explain (format json) execute explained{given}")
    await connection.execute("deallocate explained")
    return list(nodes(json.loads(plan)[0]["Plan"]))


def passes(name: str) -> set[str]:
    """The guarded tables that a statement may read from one end to the other."""
    if found := re.fullmatch(r"listing\.PAGE\[(.*)]", name):
        given = tuple(each for each in found[1].split(",") if each and each != "after")
        return {"instance"} if given in LISTED else set()
    return PASSES.get(name, set())


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - UNPLANNED))
async def test_no_statement_reads_a_whole_table_but_those_that_must(crowd: Database, name: str) -> None:
    setting = {"enable_seqscan": "on"} if name in UPKEEP or name in TICK else {}
    connection = await connect(crowd.url, name="plans", **setting)
    read = await explained(connection, STATEMENTS[name])
    await connection.close()
    whole = [each for each in read if each.is_pass and each.table not in passes(name)]
    assert not whole


def test_the_passes_that_are_allowed_are_of_statements_that_exist() -> None:
    assert PASSES.keys() | UNPLANNED <= STATEMENTS.keys()


async def test_an_unfiltered_page_of_the_living_never_reads_the_dead(crowd: Database) -> None:
    connection = await connect(crowd.url, name="plans")
    read = await explained(connection, STATEMENTS["listing.PAGE[]"])
    rows = await connection.fetchval("select count(*) from instance where died_revision is null")
    await connection.close()
    assert not [each for each in read if each.kind == "Seq Scan" and each.table == "instance"]
    assert rows == LIVING


async def test_the_owners_functions_read_no_whole_table(crowd: Database) -> None:
    """Their statements are planned inside them, and are overheard."""
    connection = await asyncpg.connect(crowd.admin)
    heard: list[str] = []
    connection.add_log_listener(lambda _, message: heard.append(message.message))
    await connection.execute("""
        load 'auto_explain';
        set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_format = json; set auto_explain.log_level = notice;
        set plan_cache_mode = force_generic_plan; set jit = off;
        update control set compacted_revision = 2000000""")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("update event set at = at - interval '1 year' where revision <= 2000100")
    await connection.execute(
        "update instance set died_revision = 2000000, died_at = died_at - interval '1 year' where id = $1",
        numbered(LIVING + 10),
    )
    heard.clear()
    begun = perf_counter()
    for call in ("compact_history(100)", "delete_compacted(100)", "bury_dead(100)"):
        assert await connection.fetchval(f"select {call}")
    print(f"compacting 100, deleting 100 events, burying 1: {perf_counter() - begun:.2f} s")
    await transaction.rollback()
    await connection.execute("update control set compacted_revision = 0")
    await connection.close()
    plans = [json.loads(each.partition("plan:")[2]) for each in heard if "plan:" in each]
    assert len(plans) > 3
    whole = [(plan["Query Text"], each) for plan in plans for each in nodes(plan["Plan"]) if each.is_pass]
    assert not whole


# ── questions to the record ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def auditor(crowd: Database) -> AsyncIterator[Any]:
    """A connection of the record's reader."""
    await crowd.run(f"alter role im_auditor login password '{PASSWORD}'")
    connection = await asyncpg.connect(at(crowd.admin, database=crowd.name, user="im_auditor", password=PASSWORD))
    yield connection
    await connection.close()


def reads(plan: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The tables that a plan has read from one end to the other, and how often."""
    for each in nodes({**plan, "Plans": []}):
        if each.is_pass or (each.table in RECORDED and not each.condition and "Bitmap" not in each.kind):
            yield each.table, plan["Actual Loops"]
    for part in plan.get("Plans", ()):
        yield from reads(part)


RECORDED = {"instance", "parent_link", "event", "epitaph"}
WHY = """
select root_type, root_cause_why, actor, note, count(*) from deaths
where type = 'CHROME_BROWSER' and died_at >= '{since}' group by root_cause, 1, 2, 3, 4
"""


async def whole_reads(auditor: Any, question: str) -> list[tuple[str, int]]:
    """What the plan of a question reads wholly, as it is carried out."""
    told = json.loads(await auditor.fetchval(f"explain (analyze, format json) {question}"))[0]
    print(f"{question.strip()[:60]} ...: {told['Execution Time']:.1f} ms")
    return list(reads(told["Plan"]))


@pytest.mark.parametrize("number", [150_000, 1_000_000])
async def test_why_one_died_is_looked_up_by_keys_with_an_epitaph_and_without(auditor: Any, number: int) -> None:
    for view in ("deaths", "root_causes"):
        question = f"select actor, note from {view} where id = '{numbered(number)}'"
        told = [tuple(row) for row in await auditor.fetch(question)]
        assert told == [("ann", "why") if number < 200_000 else (None, None)]
    question = f"select * from deaths where id = '{numbered(number)}'"
    assert await whole_reads(auditor, question) == []


async def test_why_400_died_at_once_is_looked_up_by_keys_before_and_after_the_trim(fleet: Fleet, auditor: Any) -> None:
    parent = await fleet.add()
    browsers = [Registration(new_id(), InstanceType.CHROME_BROWSER, parent=parent) for _ in range(400)]
    await fleet.do(*browsers)
    since = await fleet.value("select clock_timestamp()")
    await fleet.kill(parent, "rollout 7")
    why = WHY.format(since=since)
    told = [tuple(row) for row in await auditor.fetch(why)]
    assert told == [("CHROME_BROWSER", "KILLED", fleet.actor, "rollout 7", 401)]
    assert await whole_reads(auditor, why) == []
    # as the two functions would, for which 200,000 events of others would have to go first
    await fleet.sql.execute("""
        insert into epitaph (instance_id, actor, note)
        select instance_id, actor, note from event where type = 2 and instance_id = root_cause""")
    await fleet.sql.execute("delete from event where type = 2")
    assert [tuple(row) for row in await auditor.fetch(why)] == told
    assert await whole_reads(auditor, why) == []


async def test_why_they_all_died_reads_each_table_once(auditor: Any) -> None:
    for question in (
        "select actor, note, count(*) from deaths group by 1, 2",
        "select actor, note, sum(deaths) from root_causes group by 1, 2",
    ):
        found = await whole_reads(auditor, question)
        assert {table for table, _ in found} >= {"instance", "epitaph"}
        assert {loops for _, loops in found} == {1}


# ── times, printed; what is asserted is generous ─────────────────────────────────────────────────────────────────────


async def timed(what: str, coroutine: Any) -> float:
    """Seconds that it takes."""
    begun = perf_counter()
    await coroutine
    taken = perf_counter() - begun
    print(f"{what}: {taken * 1000:.1f} ms")
    return taken


async def listed(fleet: Fleet, wanted: Filter, most: int) -> int:
    """How many a page gives."""
    count = 0
    async with fleet.connections.readers.snapshot() as connection:
        async for _ in living(connection, wanted, after=None, revision=1 << 60, most=most):
            count += 1
            if count == most:
                break
    return count


async def test_what_the_usual_costs_among_so_many(fleet: Fleet) -> None:
    await timed("the first turn", fleet.add())
    await timed("an add", fleet.add())
    calls = [Registration(new_id(), InstanceType.CHROME_BROWSER, parent=numbered(20_000)) for _ in range(1_000)]
    await timed("1,000 adds", fleet.do(*calls))
    await timed("the first health check", fleet.check(numbered(1)))
    for size in (1, 1_000, 5_000):
        await fleet.silence(20)
        await timed(f"{size} health checks, written", fleet.check(*map(numbered, range(size))))
        await timed(f"{size} health checks, fresh", fleet.check(*map(numbered, range(size))))
    await fleet.tick()
    await timed("a tick that finds nothing", fleet.tick())


async def test_what_a_list_costs_among_so_many(fleet: Fleet) -> None:
    wanted = {
        "all": Filter(),
        "a rare type": Filter(types=(InstanceType.VLLM,)),
        "a common type": Filter(types=(InstanceType.CHROME_BROWSER,)),
        "a host": Filter(hostnames=("host-17",)),
        "a label": Filter(labels={"team": "team-17"}),
        "a parent": Filter(parent=numbered(1_001)),
        "a subtree": Filter(subtree_of=numbered(1_000)),
    }
    for what, each in wanted.items():
        taken = [await timed(f"a page of {what}", listed(fleet, each, 1_000)) for _ in range(3)]
        assert median(taken) < 1


async def test_a_chain_of_1_000_and_a_subtree_of_10_000_die_quickly_among_so_many(fleet: Fleet) -> None:
    await fleet.kill(new_id())
    chain = await timed("a kill of a chain of 1,000", fleet.kill(numbered(0)))
    tree = await timed("a kill of a subtree of 10,000", fleet.kill(numbered(1_000)))
    deaths = await fleet.rows("select count(*) from event where type = 2 group by revision order by 1")
    assert [row[0] for row in deaths] == [1_000, 10_000]
    assert chain < 0.5
    assert tree < 5
