"""What an operation costs in a fleet of 10,000, of 100,000 and of 1,000,000, with twenty dead for each living one.

    .venv/bin/python -m bench.growth [--size 10000 --size 100000 ...]

Judged by counts: the blocks of the database that one operation touches, which no noise of the machine changes. Each
operation is alone in its turn, so it pays for the whole of it. The memory of a manager is taken once all are planted
and it has served each operation.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import md5
from uuid import UUID

import asyncpg
from sqlalchemy import text

from bench.arena import at_most
from bench.scene import NAME, SERVE, machine, prepared, resident
from manager.domain.calls import Kill, Link, Registration, Update
from manager.domain.instance import InstanceId, InstanceType
from manager.embedded import Postgres, start
from manager.presence import new_id
from manager.repository.driver import rows
from manager.repository.instances import find
from manager.repository.listing import describe
from tests.conftest import Database
from tests.fleet import Fleet, fleet_of
from tests.processes import started

DEAD_FOR_EACH = 20
TIMES = 50
SIZES = (10_000, 100_000, 1_000_000)
LIMIT = 1.25
LOGGED = 200_000  # events

FILL = """
create function pg_temp.id(n bigint) returns uuid language sql immutable return md5(n::text)::uuid;

insert into instance (id, type, hostname, labels, timeout, digest, created_at, created_revision, updated_revision,
                      died_at, died_revision, death_cause, root_cause)
select pg_temp.id(n), 1 + n % 4, 'host-' || n % 5000, jsonb_build_object('team', 'team-' || n % 500), '1 day',
       decode(repeat('00', 32), 'hex'), now(), n + 1, n + 1,
       case when n >= {size} then now() end, case when n >= {size} then {all} end,
       case when n >= {size} then 1 end, case when n >= {size} then pg_temp.id(n) end
from generate_series(0, {all} - 1) n;

-- groups of ten: a parent and nine children
insert into parent_link (child_id, parent_id, revision, ended_revision)
select pg_temp.id(n), pg_temp.id(n - n % 10), n + 1, case when n >= {size} then {all} end
from generate_series(0, {all} - 1) n where n % 10 > 0;

insert into service (instance_id, ordinal, type, host, port, revision)
select pg_temp.id(n), 0, 1, '10.0.0.1', 9222, n + 1 from generate_series(0, {all} - 1, 10) n;

insert into heartbeat (instance_id, timeout, last_seen)
select pg_temp.id(n), '1 day', now() - interval '3 hours' from generate_series(0, {size} - 1) n;

insert into event (revision, ordinal, type, instance_id, after, actor, nonce, at)
select {all} + n, 0, 1, pg_temp.id(n), '{{}}', '', 0, now() from generate_series(1, {logged}) n;
"""
BLOCKS = "select blks_hit + blks_read from pg_stat_database where datname = current_database()"
FLUSH = text("select pg_stat_force_next_flush()")


def numbered(number: int) -> InstanceId:
    """The id of one of those that are there."""
    return InstanceId(UUID(md5(str(number).encode(), usedforsecurity=False).hexdigest()))


async def planted(postgres: Postgres, size: int) -> Database:
    """A database of its own with a fleet of that size."""
    url = await prepared(postgres)
    connection = await asyncpg.connect(postgres.url(database=NAME))
    await connection.execute("set maintenance_work_mem = '512MB'; set synchronous_commit = off")
    everybody = size * (1 + DEAD_FOR_EACH)
    await connection.execute(FILL.format(size=size, all=everybody, logged=LOGGED), timeout=3_600)
    await connection.execute("vacuum analyze", timeout=3_600)
    await connection.close()
    return Database(NAME, url, postgres.url(database=NAME))


Operation = Callable[[Fleet, int], Awaitable[object]]


async def _find(fleet: Fleet, number: int) -> object:
    async with fleet.connections.lookups.use() as connection:
        return await find(connection, [numbered(number)])


async def _describe(fleet: Fleet, number: int) -> object:
    async with fleet.connections.readers.use() as connection:
        return await describe(connection, numbered(number))


def _newcomer(number: int) -> Registration:
    return Registration(new_id(), InstanceType.CHROME_BROWSER, f"host-{number}", parent=numbered(number - number % 10))


# Each of another instance, whose number is given.
OPERATIONS: Mapping[str, Operation] = {
    "health check": lambda fleet, number: fleet.check(numbered(number)),
    "register, with a parent": lambda fleet, number: fleet.do(_newcomer(number)),
    "update": lambda fleet, number: fleet.do(
        Update(numbered(number), InstanceType.CHROME_BROWSER, f"new-{number}", {})
    ),
    "link": lambda fleet, number: fleet.do(Link(numbered(number - number % 10), numbered(number - number % 10 + 10))),
    "kill a tree of ten": lambda fleet, number: fleet.do(Kill(numbered(number - number % 10))),
    "read one": _find,
    "describe one": _describe,
}
# The reaper's pass goes through the living: it may grow with them, and is shown, not judged.
PASS = "a tick, a second for all"


async def touched(fleet: Fleet) -> int:
    """The blocks that all of the manager's connections have touched until now."""
    used = fleet.connections
    for each in (used.turns, used.checks, used.lookups, used.readers):
        async with each.use() as connection:
            await rows(connection, FLUSH)  # or a session would tell within ten seconds
    return int(await fleet.value(BLOCKS))


async def measured(fleet: Fleet, operation: Operation, places: Sequence[int]) -> tuple[float, float]:
    """Blocks and milliseconds of one, the first few not counted."""
    for number in places[:5]:
        await operation(fleet, number)
    idle = await touched(fleet)
    before = await touched(fleet)
    taken = []
    for number in places[5:]:
        begun = time.perf_counter()
        await operation(fleet, number)
        taken.append(time.perf_counter() - begun)
    after = await touched(fleet)
    return (after - before - (before - idle)) / len(taken), statistics.median(taken) * 1000


async def grown(size: int) -> tuple[dict[str, tuple[float, float]], str]:
    """Each operation in a fleet of that size; and what the fleet takes."""
    with start(None, ephemeral=True) as postgres:
        database = await planted(postgres, size)
        costs = {}
        async with fleet_of(database) as fleet:
            for place, (name, operation) in enumerate(OPERATIONS.items()):
                # everybody in a share of the fleet of its own, and no two in one tree
                first = size // len(OPERATIONS) // 20 * 20 * place
                costs[name] = await measured(fleet, operation, [first + 20 * each + 1 for each in range(TIMES + 5)])
            costs[PASS] = await measured(fleet, lambda fleet, _: fleet.tick(), range(10))
            megabytes = await fleet.value("select pg_database_size(current_database()) / 1048576")
        async with started(*SERVE, DATABASE_URL=database.url) as manager:
            await asyncio.sleep(5)
            memory = resident(manager.process.pid)
    return costs, f"{size} living: database {megabytes} MiB, manager {memory:.0f} MiB"


async def main() -> None:
    """All sizes; a table, what each takes, and the line of each bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, action="append")
    asked = parser.parse_args()
    sizes = asked.size or SIZES
    with start(None, ephemeral=True) as postgres:
        print(machine(postgres))
    found, notes = zip(*[await grown(size) for size in sizes], strict=True)
    print("| blocks touched (ms) |", " | ".join(map(str, sizes)), "| last / first |")
    print("|---|" + "---|" * (len(sizes) + 1))
    lines = []
    for name in (*OPERATIONS, PASS):
        ratio = found[-1][name][0] / found[0][name][0]
        cells = " | ".join(f"{each[name][0]:.0f} ({each[name][1]:.1f})" for each in found)
        print(f"| {name} | {cells} | {ratio:.2f} |")
        if name != PASS:
            lines.append(at_most(f"growth-{name.replace(',', '').replace(' ', '-')}", ratio, LIMIT))
    print(*notes, *lines, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
