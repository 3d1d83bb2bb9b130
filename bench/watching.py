"""A hundred subscribers to all of 5,000 changes a second, against etcd's; and how long a change is on its way."""

import statistics
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg

from bench import etcd as peer
from bench.arena import FLEET, TRY, VERSION, Arena, at_most, chunks
from bench.load import load, watching
from bench.operations import TRUE, newcomers
from bench.scene import NAME, SERVE, family_cpu, quantile
from bench.stream import timed
from manager.embedded import start
from manager.pb import fleet_pb2 as fleet
from manager.pb import instance_manager_pb2 as pb
from tests.processes import started

WATCHERS = {"connections": 10, "streams": 10}
RATE = 5_000  # changes a second
SECONDS = 4
TOGETHER = 50  # so many a message
UPDATES, EVENTS = 1, 11  # the fields that hold an event each, ours and etcd's

STEADY = 1_000  # changes a second, one by one, whose way is timed


@dataclass(frozen=True)
class Delivered:
    """Of one round: deliveries, and microseconds of CPU for each."""

    count: int
    server: float
    database: float

    @property
    def whole(self) -> float:
        """Server and database."""
        return self.server + self.database


async def ours(arena: Arena) -> Delivered:
    """Registrations, in small batches at a steady rate, to subscribers of WatchInstances."""
    new = chunks(newcomers(RATE * SECONDS), TOGETHER)
    batches = [fleet.AddInstancesRequest(instances=each).SerializeToString() for each in new]
    wanted = pb.SubscribeRequest(event_types=[pb.ADDED]).SerializeToString()
    watch = f"{FLEET}/WatchInstances"
    async with watching(
        arena.manager, watch, wanted, until=RATE * SECONDS, count=UPDATES, **VERSION, **WATCHERS
    ) as done:
        before = arena.used()
        await arena.ours(f"{FLEET}/AddInstances", batches, TOGETHER, connections=4, rate=RATE / TOGETHER)
        count = (await done()).events
        after = arena.used()
    return Delivered(count, (after[0] - before[0]) / count * 1e6, (after[1] - before[1]) / count * 1e6)


async def theirs(arena: Arena) -> Delivered:
    """Puts at the same rate to as many watchers."""
    puts = [peer.message(each.instance_id.encode(), each.SerializeToString()) for each in newcomers(RATE * SECONDS)]
    everything = peer.message(peer.message(b"\0", b"\0"))
    async with watching(
        arena.etcd.address, peer.WATCH, everything, until=RATE * SECONDS, count=EVENTS, open=True, **WATCHERS
    ) as done:
        before = family_cpu(arena.etcd.pid)
        await arena.theirs(peer.PUT, puts, connections=4, rate=RATE)
        count = (await done()).events
        used = family_cpu(arena.etcd.pid) - before
    return Delivered(count, used / count * 1e6, 0.0)


async def delays() -> list[float]:
    """Seconds from each commit on one manager to its delivery at a subscriber of another."""
    with start(None, ephemeral=True) as postgres, tempfile.NamedTemporaryFile() as trace:
        url = await timed(postgres)
        async with (
            started(*SERVE, DATABASE_URL=url) as writing,
            started(*SERVE, DATABASE_URL=url) as reading,
        ):
            named = newcomers(200)
            adds = [each.SerializeToString() for each in named]
            await load(writing.address, f"{TRY}/TryAddInstance", adds, **VERSION, expect=TRUE)
            updates = []
            for number in range(STEADY * 12):
                each = named[number % len(named)]
                each.hostname = f"host-{number}"  # one that was there already changes nothing
                updates.append(each.SerializeToString())
            wanted = pb.SubscribeRequest(event_types=[pb.UPDATED]).SerializeToString()
            watch, options = f"{FLEET}/WatchInstances", {"until": len(updates), "count": UPDATES, "trace": trace.name}
            async with watching(reading.address, watch, wanted, **options, **VERSION) as done:
                path = f"{TRY}/TryUpdateInstance"
                await load(writing.address, path, updates, **VERSION, rate=STEADY, connections=4, expect=TRUE)
                await done()
        committed = await commits(postgres.url(database=NAME))
        trace.seek(0)
        arrived = dict(traced(trace.read()))
    return [arrived[each] - at for each, at in committed.items()][STEADY * 2 :]  # the first two seconds warm up


async def commits(url: str) -> dict[int, float]:
    """When each update was committed, on the clock of this machine; in their order."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "select revision, extract(epoch from pg_xact_commit_timestamp(cast(cast(xid as text) as xid)))::float8 as at"
        " from event where type = 8 order by revision"
    )
    await connection.close()
    return {row["revision"]: row["at"] for row in rows}


def traced(recorded: bytes) -> Iterator[tuple[int, float]]:
    """Revisions and when they arrived, from what load.cpp wrote."""
    place = 0
    while place < len(recorded):
        at, size = struct.unpack_from("=qI", recorded, place)
        place += 12
        for update in fleet.InstanceUpdates.FromString(recorded[place : place + size]).updates:
            yield update.revision, at / 1e9
        place += size


async def judged(arena: Arena, rounds: int) -> list[str]:
    """Rounds in turns; a table, and the line of each bar."""
    pairs = [(await ours(arena), await theirs(arena)) for _ in range(rounds + 1)][1:]
    ratio = statistics.median(one.whole / other.whole for one, other in pairs)
    server, database, other = (
        statistics.median(each)
        for each in zip(*((one.server, one.database, other.whole) for one, other in pairs), strict=True)
    )
    print("| delivered | CPU of each, ours: server + PostgreSQL, µs | etcd's | ratio |\n|---|---|---|---|")
    print(f"| {pairs[0][0].count} | {server:.2f} + {database:.2f} | {other:.2f} | {ratio:.2f} |", flush=True)
    ways = [await delays() for _ in range(rounds)]
    p50, p99 = (statistics.median(quantile(each, share) for each in ways) * 1000 for share in (0.5, 0.99))
    print(f"\nfrom commit to delivery at {STEADY} changes/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
    return [
        at_most("watch-cpu-to-etcd", ratio, 1.0),
        at_most("delivery-p50-ms", p50, 3.0),
        at_most("delivery-p99-ms", p99, 15.0),
    ]
