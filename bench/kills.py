"""A tree of 10,000 and of 100,000 dies, with twenty dead for each living one beside it.

Against the revocation of a lease with as many keys, and against the same writes as bare SQL, by hand and on one
connection.
"""

import statistics
import time

import asyncpg

from bench import etcd as peer
from bench.arena import TRY, UNARY, VERSION, Arena, at_most
from bench.load import load
from bench.scene import NAME
from manager.pb import instance_manager_pb2 as pb
from manager.presence import new_id

SIZES = (10_000, 100_000)
DEAD_FOR_EACH = 20
TRUE = "0801"

GRAVES = """
insert into instance (id, type, hostname, labels, timeout, digest, created_at, created_revision, updated_revision,
                      died_at, died_revision, death_cause, root_cause)
select i.id, 1, 'host-' || n % 5000, '{}', '30 s', decode(repeat('00', 32), 'hex'), now(), 1, 1, now(), 1, 1, i.id
from generate_series(1, $1::int) n cross join lateral (select gen_random_uuid() as id where n > 0) i
"""
# Below each a hundred. Written by hand, since only its death is measured.
TREE = """
with born as materialized (
    select n, case when n = 0 then $1::uuid else gen_random_uuid() end as id from generate_series(0, $2::int - 1) n
), instances as (
    insert into instance (id, type, hostname, labels, timeout, digest, created_at, created_revision, updated_revision)
    select id, 1, 'host-' || n % 5000, '{}', '1 day', decode(repeat('00', 32), 'hex'), now(), 1, 1 from born
), beats as (
    insert into heartbeat (instance_id, timeout, last_seen) select id, '1 day', now() from born
)
insert into parent_link (child_id, parent_id, revision)
select b.id, p.id, 1 from born b join born p on p.n = (b.n - 1) / 100 where b.n > 0
"""
BARE = """
with recursive tree as (
    select $1::uuid as id
    union
    select l.child_id from tree t join parent_link l on l.parent_id = t.id and l.ended_revision is null
), killed as (
    update instance set died_at = now(), died_revision = $2, death_cause = case when id = $1 then 1 else 3 end,
                        root_cause = $1
    where id in (select id from tree) returning id, type, hostname, labels, timeout, created_at
), unlinked as (
    update parent_link set ended_revision = $2 where child_id in (select id from tree)
), silenced as (
    delete from heartbeat where instance_id in (select id from tree)
)
insert into event (revision, ordinal, type, instance_id, before, cause, root_cause, actor, nonce, at)
select $2, row_number() over (), 2, id,
       jsonb_build_object('type', type, 'hostname', hostname, 'labels', labels, 'timeout', timeout, 'at', created_at),
       case when id = $1 then 1 else 3 end, $1, 'by hand', 0, now()
from killed
"""


async def planted(connection: asyncpg.Connection, size: int) -> str:
    """A tree of that size; its root."""
    root = str(new_id())
    await connection.execute(TREE, root, size)
    await connection.execute("vacuum analyze instance, parent_link, heartbeat", timeout=600)
    await connection.execute("checkpoint")
    return root


async def killed(arena: Arena, connection: asyncpg.Connection, size: int) -> float:
    """Seconds from the call to its answer."""
    root = await planted(connection, size)
    request = pb.KillRequest(instance_id=root).SerializeToString()
    done = await load(arena.manager, f"{TRY}/TryKillInstance", [request], **VERSION, expect=TRUE)
    if done.ok != 1 or await connection.fetchval("select count(*) from event where root_cause = $1", root) != size:
        raise RuntimeError(f"the kill of {size} failed: {dict(done.failures)}")
    return done.seconds


async def by_hand(connection: asyncpg.Connection, size: int) -> float:
    """The bare SQL, to the answer of its commit. The manager is idle, so that the next revision is free."""
    root = await planted(connection, size)
    revision = await connection.fetchval("select max(revision) + 1 from event")
    before = time.perf_counter()
    await connection.execute(BARE, root, revision, timeout=600)
    return time.perf_counter() - before


async def revoked(arena: Arena, size: int, lease: int) -> float:
    """Seconds of etcd for a lease with as many keys."""
    await arena.theirs(peer.GRANT, [peer.message(86_400, lease)])
    puts = [peer.message(f"{lease}/{number}".encode(), b"x" * 100, lease) for number in range(size)]
    # a put by itself has etcd look at all keys that its lease has already: 100,000 take it a quarter of an hour
    await arena.theirs(peer.TXN, [peer.together(puts[at : at + 100]) for at in range(0, size, 100)], **UNARY)
    done = await load(arena.etcd.address, peer.REVOKE, [peer.message(lease)])
    if done.ok != 1:
        raise RuntimeError(f"the lease was not revoked: {dict(done.failures)}")
    return done.seconds


async def judged(arena: Arena, rounds: int) -> list[str]:
    """Rounds in turns; a table, and the line of each bar."""
    connection = await asyncpg.connect(arena.postgres.url(database=NAME))
    await connection.execute(GRAVES, DEAD_FOR_EACH * max(SIZES), timeout=600)
    lines = []
    print("| killed | ours, s | bare SQL, s | etcd, s | ours / bare | ours / etcd |\n|---|---|---|---|---|---|")
    for size in SIZES:
        taken = []
        for number in range(rounds + 1):
            lease = size + number
            taken.append(
                (
                    await killed(arena, connection, size),
                    await by_hand(connection, size),
                    await revoked(arena, size, lease),
                )
            )
        own, bare, other = (statistics.median(each) for each in zip(*taken[1:], strict=True))
        to_bare, to_etcd = (
            statistics.median(mine / theirs for mine, theirs in ((one[0], one[place]) for one in taken[1:]))
            for place in (1, 2)
        )
        print(f"| {size} | {own:.3f} | {bare:.3f} | {other:.3f} | {to_bare:.2f} | {to_etcd:.2f} |", flush=True)
        lines.append(at_most(f"kill-{size}-to-bare-sql", to_bare, 1.5))
        lines.append(at_most(f"kill-{size}-to-etcd", to_etcd, 1.0 if size == max(SIZES) else 2.0))
    await connection.close()
    return lines
